"""What the operating system can hold a process with: namespaces, Landlock, seccomp, resource limits, capabilities.

Plain ctypes and the standard library, no root needed. Each layer is probed by trying it and skipped where the host
refuses it; `Layers.names` says which ones hold. System call numbers are known for x86_64 and aarch64.
"""

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys

LINUX = sys.platform.startswith("linux")
STRONG = ("namespaces", "landlock", "seccomp", "rlimits")
"""The layers of a strong sandbox; control groups and the identity come on top where the host gives them."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.syscall.argtypes = [ctypes.c_long] * 7
_libc.syscall.restype = ctypes.c_long

NEW_NS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET, NEW_CGROUP = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
    0x02000000,
)


def _check(result: int, what: str, which: int | str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what} {which}: {os.strerror(number)}")
    return result


def prctl(option: int, argument: int = 0) -> None:
    _check(_libc.prctl(option, argument, 0, 0, 0), "prctl", option)


def syscall(number: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0) -> int:
    """Any system call; pointers are given as addresses."""
    return _check(_libc.syscall(number, a, b, c, d, e, 0), "system call", number)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent goes. setuid clears it: ask again after."""
    if LINUX:
        prctl(1, 9)


_NAMES = {
    name: ctypes.create_string_buffer(f"mucode-{name}".encode()[:15]) for name in ("zygote", "judge", "candidate")
}


def outlive_parent() -> None:
    """Take back `die_with_parent`."""
    if LINUX:
        prctl(1, 0)


def name_process(name: str) -> None:
    """What `ps -o comm` shows: `mucode-` and the name, which is one of three."""
    if LINUX:
        prctl(15, ctypes.addressof(_NAMES[name]))


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def enter_namespace(descriptor: int, kind: int) -> None:
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def close_from(low: int, high: int = 0x7FFFFFFF) -> None:
    os.closerange(low, min(high, os.sysconf("SC_OPEN_MAX"))) if not LINUX else syscall(436, low, high, 0)


# --- file system ---------------------------------------------------------------------------------------------------

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_NOATIME, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    1024,
    4096,
    16384,
    1 << 18,
)
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_AT_RECURSIVE = 0x8000
DEVICES = ("/dev/null", "/dev/urandom", "/dev/random")
TMP = "/tmp"  # noqa: S108 - of the new root
WRITABLE = "/run/sandbox"
"""The directory that holds the scratch; Landlock's rule stands here, because each job mounts another scratch."""
SCRATCH = f"{WRITABLE}/tmp"  # noqa: S108
"""Where `/tmp` of the new root leads."""
_KEPT = "/run/kept"
"""What the host has below its own /tmp stands below this in the new root."""


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    def text(value: str | None) -> bytes | None:
        return None if value is None else os.fsencode(value)

    result = _libc.mount(text(source), text(target), text(kind), ctypes.c_ulong(flags), text(data))
    _check(result, f"mount {target}")


def unmount(target: str, *, detach: bool = True) -> None:
    _check(_libc.umount2(os.fsencode(target), 2 if detach else 0), f"umount {target}")


def new_root(readable: list[str], hidden: list[str]) -> int:
    """Replace the root by a tmpfs that shows only `readable` and the plain devices; `/tmp` leads to `SCRATCH`.

    Returns a descriptor of this namespace's /proc, which no path leads to any more, or -1 where none can be had.
    """
    new = TMP  # the mount point of the new root: it exists everywhere
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    wanted = [path for path in (*readable, *DEVICES) if os.path.lexists(path)]
    kept = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in wanted if not os.path.islink(path)}
    links = {path: placed(os.path.realpath(path)) for path in wanted if os.path.islink(path)}
    mount("tmpfs", new, "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,mode=755")
    for path, target in links.items():
        os.makedirs(os.path.dirname(new + placed(path)), exist_ok=True)
        os.symlink(target, new + placed(path))
    for path, descriptor in kept.items():  # by descriptor: what stands below /tmp is covered by now
        mode, device = os.fstat(descriptor).st_mode, path in DEVICES
        _bind(f"/proc/self/fd/{descriptor}", new + placed(path), mode, device=device)
        os.close(descriptor)
    for path in hidden:
        if os.path.isdir(new + placed(path)):
            flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY
            mount("tmpfs", new + placed(path), "tmpfs", flags, "size=4k,mode=555")
    os.makedirs(new + "/proc")
    processes = -1
    with contextlib.suppress(OSError):
        mount("proc", new + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        processes = os.open(new + "/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        unmount(new + "/proc")
    os.makedirs(new + SCRATCH)
    os.symlink(SCRATCH, new + TMP)
    os.makedirs(new + "/old")
    os.chdir(new)
    here, old = ctypes.create_string_buffer(b"."), ctypes.create_string_buffer(b"old")
    syscall(_numbers()["pivot_root"], ctypes.addressof(here), ctypes.addressof(old))
    unmount("/old")
    os.chdir("/")
    os.rmdir("/old")
    mount("none", "/", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    return processes


def placed(path: str) -> str:
    """Where a path of the host stands in the new root. Its /tmp is the programs' own."""
    return _KEPT + path if path.startswith(TMP + "/") else path


def mount_scratch(megabytes: int) -> None:
    """An empty scratch of that size, in the new root."""
    size = f"size={max(megabytes << 20, 4096)},nr_inodes={4096 if megabytes else 1},mode=777"
    mount("tmpfs", SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOATIME, size)


def _bind(source: str, target: str, mode: int, *, device: bool) -> None:
    if (mode & 0o170000) == 0o040000:
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    mount(source, target, None, MS_BIND | MS_REC)
    attributes = _ATTR_RDONLY | _ATTR_NOSUID | (0 if device else _ATTR_NODEV)
    path, change = ctypes.create_string_buffer(os.fsencode(target)), struct.pack("QQQQ", attributes, 0, 0, 0)
    buffer = ctypes.create_string_buffer(change, len(change))
    try:
        syscall(_COMMON["mount_setattr"], -100, ctypes.addressof(path), _AT_RECURSIVE, ctypes.addressof(buffer), 32)
    except OSError:  # before Linux 5.12, or a container's filter: the top of the tree, with the flags that it has
        held = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | (0 if device else MS_NODEV)
        mount("none", target, None, flags | held)


# --- Landlock ------------------------------------------------------------------------------------------------------

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = 16, 32, 128, 256, 4096
_REFER, _TRUNCATE, _IOCTL = 8192, 16384, 32768
READ = _READ_FILE | _READ_DIR | _EXECUTE
LIST = _READ_DIR
READ_WRITE = (
    _READ_FILE
    | _READ_DIR
    | _WRITE_FILE
    | _REMOVE_DIR
    | _REMOVE_FILE
    | _MAKE_DIR
    | _MAKE_REG
    | _MAKE_SYM
    | _REFER
    | _TRUNCATE
)
DEVICE = _READ_FILE | _WRITE_FILE
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL


def landlock_abi() -> int:
    """The version of Landlock's interface, 0 where the kernel has none or a filter forbids it."""
    if not LINUX or platform.machine() not in _TABLES:
        return 0
    result = _libc.syscall(444, 0, 0, 1, 0, 0, 0)
    return max(int(result), 0)


def landlock_ruleset(rules: list[tuple[str, int]]) -> int:
    """A descriptor of rules `(path, access)` that deny every other file, TCP and signals to the outside."""
    abi = landlock_abi()
    mask = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    ruleset = -1
    for networks, scopes in ((3, 3), (3, 0), (0, 0)):  # by trying: some kernels report an ABI that they lack in part
        attributes = struct.pack("QQQ", mask, networks if abi >= 4 else 0, scopes if abi >= 6 else 0)
        size = 24 if abi >= 6 else 16 if abi >= 4 else 8
        with contextlib.suppress(OSError):
            buffer = ctypes.create_string_buffer(attributes, size=len(attributes))
            ruleset = syscall(444, ctypes.addressof(buffer), size, 0)
            break
    if ruleset < 0:
        raise OSError(errno.ENOSYS, "Landlock refused every rule set")
    for path, access in rules:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed = access & mask
        if not os.path.isdir(path):
            allowed &= _ON_FILES
        beneath = ctypes.create_string_buffer(struct.pack("=Qi", allowed, descriptor), 12)
        syscall(445, ruleset, 1, ctypes.addressof(beneath), 0)
        os.close(descriptor)
    return ruleset


def landlock_restrict(ruleset: int) -> None:
    syscall(446, ruleset, 0)


# --- seccomp -------------------------------------------------------------------------------------------------------


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _table(text: str) -> dict[str, int]:
    pairs = (pair.split("=") for pair in text.split())
    return {name: int(number) for name, number in pairs}


_X86_64 = _table("""
socket=41 connect=42 accept=43 bind=49 listen=50 accept4=288 clone=56 fork=57 vfork=58 execve=59 kill=62 tkill=200
tgkill=234 chmod=90 fchmod=91 chown=92 fchown=93 lchown=94 fchownat=260 fchmodat=268 utime=132 utimes=235 futimesat=261
utimensat=280 mknod=133 mknodat=259 setxattr=188 lsetxattr=189 fsetxattr=190 removexattr=197 lremovexattr=198
fremovexattr=199 personality=135 ustat=136 sysfs=139 sched_setparam=142 sched_setscheduler=144 vhangup=153
modify_ldt=154 pivot_root=155 _sysctl=156 adjtimex=159 chroot=161 acct=163 settimeofday=164 mount=165 umount2=166
swapon=167 swapoff=168 reboot=169 sethostname=170 setdomainname=171 iopl=172 ioperm=173 init_module=175
delete_module=176 quotactl=179 ptrace=101 syslog=103 setpgid=109 setsid=112 mlock=149 mlockall=151 mlock2=325
shmget=29 shmat=30 msgget=68 semget=64 mq_open=240 rt_sigqueueinfo=129 rt_tgsigqueueinfo=297 sched_setaffinity=203
remap_file_pages=216 lookup_dcookie=212 clock_settime=227 mbind=237 set_mempolicy=238 kexec_load=246 add_key=248
request_key=249 keyctl=250 ioprio_set=251 inotify_init=253 inotify_add_watch=254 migrate_pages=256 unshare=272
vmsplice=278 move_pages=279 inotify_init1=294 perf_event_open=298 fanotify_init=300 prlimit64=302
name_to_handle_at=303 open_by_handle_at=304 clock_adjtime=305 setns=308 process_vm_readv=310 process_vm_writev=311
kcmp=312 finit_module=313 sched_setattr=314 seccomp=317 memfd_create=319 kexec_file_load=320 bpf=321 execveat=322
userfaultfd=323 uselib=134 nfsservctl=180 setpriority=141 setsockopt=54 sendto=44 sendmsg=46 sendmmsg=307 fcntl=72
ioctl=16 open=2 openat=257 statx=332 mincore=27 preadv2=327 pwritev2=328 membarrier=324 io_setup=206 io_destroy=207
io_getevents=208 io_submit=209 io_cancel=210 io_pgetevents=333 fallocate=285 fadvise64=221 readahead=187 sync=162
syncfs=306 fsync=74 fdatasync=75 sync_file_range=277 msync=26 flock=73 madvise=28 prctl=157 pipe=22 pipe2=293
socketpair=53 mmap=9
""")
_AARCH64 = _table("""
setxattr=5 lsetxattr=6 fsetxattr=7 removexattr=14 lremovexattr=15 fremovexattr=16 lookup_dcookie=18 inotify_init1=26
inotify_add_watch=27 ioprio_set=30 mknodat=33 umount2=39 mount=40 pivot_root=41 nfsservctl=42 chroot=51 fchmod=52
fchmodat=53 fchownat=54 fchown=55 vhangup=58 quotactl=60 vmsplice=75 utimensat=88 acct=89 personality=92 unshare=97
kexec_load=104 init_module=105 delete_module=106 clock_settime=112 syslog=116 ptrace=117 sched_setparam=118
sched_setscheduler=119 sched_setaffinity=122 kill=129 tkill=130 tgkill=131 rt_sigqueueinfo=138 setpriority=140
reboot=142 setpgid=154 setsid=157 sethostname=161 setdomainname=162 settimeofday=170 adjtimex=171 mq_open=180
msgget=186 semget=190 shmget=194 shmat=196 socket=198 bind=200 listen=201 accept=202 connect=203 add_key=217
request_key=218 keyctl=219 clone=220 execve=221 swapon=224 swapoff=225 mlock=228 mlockall=230 remap_file_pages=234
mbind=235 set_mempolicy=237 migrate_pages=238 move_pages=239 rt_tgsigqueueinfo=240 perf_event_open=241 accept4=242
prlimit64=261 fanotify_init=262 name_to_handle_at=264 open_by_handle_at=265 clock_adjtime=266 setns=268
process_vm_readv=270 process_vm_writev=271 kcmp=272 finit_module=273 sched_setattr=274 seccomp=277 memfd_create=279
bpf=280 execveat=281 userfaultfd=282 mlock2=284 kexec_file_load=294 setsockopt=208 sendto=206 sendmsg=211 sendmmsg=269
fcntl=25 ioctl=29 openat=56 statx=291 mincore=232 preadv2=286 pwritev2=287 membarrier=283 io_setup=0 io_destroy=1
io_submit=2 io_cancel=3 io_getevents=4 io_pgetevents=292 fallocate=47 fadvise64=223 readahead=213 sync=81 syncfs=267
fsync=82 fdatasync=83 sync_file_range=84 msync=227 flock=32 madvise=233 prctl=167 pipe2=59 socketpair=199
mmap=222
""")
_COMMON = {  # numbers from 424 on are the same on every architecture
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "openat2": 437,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "memfd_secret": 447,
    "process_mrelease": 448,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
    "set_mempolicy_home_node": 450,
    "cachestat": 451,
    "fchmodat2": 452,
}
_TABLES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
_NEWEST = 456  # futex_requeue; every call numbered above it is unknown here and answers ENOSYS
_ABSENT = _words("""
clone3 memfd_create openat2 statx preadv2 pwritev2 membarrier cachestat io_setup io_destroy io_getevents io_submit
io_cancel io_pgetevents
""")
"""Callers fall back on ENOSYS. Most say what the page cache holds, how often anything was mounted, or take from what
all processes of the host share.
"""
_NOTHING_TO_DO = _words("flock fsync fdatasync sync syncfs sync_file_range msync fadvise64 readahead")
"""They answer 0 and do nothing: files of a program vanish with it, and nobody else locks them. On a library's file they
would reach other programs, or the host's disk.
"""
_LOCKS = (6, 7, 37, 38)
"""F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW: as `_NOTHING_TO_DO`."""
_FCNTLS = (0, 1, 2, 3, 5, 1030, 1032, 1034)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_GETLK, F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS."""
_F_SETFL = 4
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_MADVISE = (12, 20, 21)
"""MADV_MERGEABLE, MADV_COLD, MADV_PAGEOUT: what is refused. The page cache and merged pages are seen by others."""
_PRCTL = (1, 4, 22, 62, 67, 0x59616D61)
"""PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SCHED_CORE, PR_SET_MEMORY_MERGE, PR_SET_PTRACER: what is
refused.
"""
_MAP_SHARED, _MAP_ANONYMOUS, _MAP_HUGETLB = 0x01, 0x20, 0x40000
"""The kernel numbers memory that is shared, and huge pages, as it numbers the files of programs' streams."""
_TMPFILE = 0x400000
"""A file that is never in a directory would leave no mark on the scratch but its number."""
_THREAD, _VFORK = 0x00010000, 0x00004000
"""Flags of clone. A thread of the second kind holds its maker as the kernel's disk waits do."""
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _JUMP, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x05, 0x06
_ARGUMENTS = 16
"""Where the arguments of a call begin, eight bytes each."""
_SOME_PID = 0x7FFFFFF1


def _numbers() -> dict[str, int]:
    return {**_TABLES[platform.machine()][1], **_COMMON}


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def seccomp_filter(pid: int) -> bytes:
    """The program of a filter that allows computing, files and threads, and signals to the process `pid` alone.

    Sockets and pipes are refused, in pairs too: the kernel numbers them for the whole machine, so that a program could
    count the numbers up and a later one read them; and no limit of a process counts the memory of their buffers.
    """
    architecture, _ = _TABLES[platform.machine()]
    numbers = _numbers()

    def answer(error: int) -> bytes:
        return _instruction(_RETURN, _ERRNO | error)

    allow = _instruction(_RETURN, _ALLOW)

    def argument(number: int, half: int = 0) -> bytes:
        return _instruction(_LOAD, _ARGUMENTS + 8 * number + 4 * half)

    def among(values: tuple[int, ...], yes: bytes, no: list[bytes]) -> list[bytes]:
        tests = [_instruction(_EQUAL, value, len(values) - place, 0) for place, value in enumerate(values)]
        return [*tests, _instruction(_JUMP, 1), yes, *no]

    def without(bits: int, place: int, error: int) -> list[bytes]:
        return [argument(place), _instruction(_ANY_BIT, bits, 0, 1), answer(error), allow]

    refuse, last = answer(errno.EPERM), [answer(errno.EPERM), allow]
    append = [argument(2), _instruction(_ANY_BIT, os.O_APPEND, 1, 0), *last]  # or output could be taken back
    special = {
        "clone": [  # threads, never processes
            argument(0),
            _instruction(_ANY_BIT, _THREAD, 0, 1),
            _instruction(_ANY_BIT, _VFORK, 0, 1),
            *last,
        ],
        "kill": [argument(0), _instruction(_EQUAL, pid, 1, 0), *last],
        "tgkill": [argument(0), _instruction(_EQUAL, pid, 1, 0), *last],
        "prlimit64": [argument(0), _instruction(_EQUAL, 0, 1, 0), *last],
        "sendto": [  # without an address
            *(argument(4), _instruction(_EQUAL, 0, 1, 0), refuse),
            *(argument(4, 1), _instruction(_EQUAL, 0, 1, 0), *last),
        ],
        "fcntl": [
            *(argument(1), _instruction(_EQUAL, _F_SETFL, 0, len(append)), *append),
            *among(_LOCKS, answer(0), among(_FCNTLS, allow, [refuse])),
        ],
        "ioctl": [argument(1), *among(_IOCTLS, allow, [answer(errno.ENOTTY)])],
        "madvise": [argument(2), *among(_MADVISE, answer(errno.EINVAL), [allow])],
        "prctl": [argument(0), *among(_PRCTL, refuse, [allow])],
        "mmap": [
            argument(3),
            *(_instruction(_ANY_BIT, _MAP_HUGETLB, 3, 0), _instruction(_ANY_BIT, _MAP_ANONYMOUS, 0, 1)),
            *(_instruction(_ANY_BIT, _MAP_SHARED, 1, 0), allow, refuse),
        ],
        "open": without(_TMPFILE, 1, errno.EOPNOTSUPP),
        "openat": without(_TMPFILE, 2, errno.EOPNOTSUPP),
        "fallocate": without(0xFFFFFFFF, 1, errno.EOPNOTSUPP),  # holes would take back what was printed
    }
    answers: dict[int, list[bytes]] = {}
    for name, number in numbers.items():
        if name in special:
            answers[number] = special[name]
        else:
            error = 0 if name in _NOTHING_TO_DO else errno.ENOSYS if name in _ABSENT else errno.EPERM
            answers[number] = [answer(error)]
    return b"".join(
        [
            _instruction(_LOAD, 4),
            _instruction(_EQUAL, architecture, 1, 0),
            _instruction(_RETURN, _KILL),
            _instruction(_LOAD, 0),
            *_search(_ranges(answers, [allow], answer(errno.ENOSYS))),
        ]
    )


def _ranges(answers: dict[int, list[bytes]], allow: list[bytes], unknown: bytes) -> list[tuple[int, list[bytes]]]:
    """Pairs of a first call number and what is done from there to the next pair's."""
    ranges = [(number, answers.get(number, allow)) for number in range(_NEWEST + 1)]
    ranges.append((_NEWEST + 1, [unknown]))  # calls newer than this file, and those of the x32 interface
    return [pair for index, pair in enumerate(ranges) if index == 0 or pair[1] != ranges[index - 1][1]]


def _search(ranges: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """A binary search: the kernel simulates the filter for every call number when it is installed."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle]), _search(ranges[middle:])
    if len(low) < 256:
        return [_instruction(_AT_LEAST, ranges[middle][0], len(low), 0), *low, *high]
    jump = _instruction(_JUMP, len(low))
    return [_instruction(_AT_LEAST, ranges[middle][0], 0, 1), jump, *low, *high]


class SeccompFilter:
    """A filter made once, installed by many forked processes."""

    def __init__(self) -> None:
        self._for_any = seccomp_filter(_SOME_PID)
        self._number = _numbers()["seccomp"]
        self._prepare(1)

    def _prepare(self, pid: int) -> None:
        code = self._for_any.replace(struct.pack("I", _SOME_PID), struct.pack("I", pid))
        self._pid = pid
        self._code = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(self._code))
        self._program = ctypes.create_string_buffer(program, len(program))
        self._address = ctypes.addressof(self._program)

    def install(self, pid: int) -> None:
        """For the process `pid`, which calls it. Needs `no_new_privileges` first."""
        if pid != self._pid:
            self._prepare(pid)
        syscall(self._number, 1, 0, self._address)


def seccomp_available() -> bool:
    if not LINUX or platform.machine() not in _TABLES:
        return False
    result = _libc.syscall(_numbers()["seccomp"], 1, 0, 0, 0, 0, 0)
    return int(result) < 0 and ctypes.get_errno() == errno.EFAULT  # the mode is known, the null program is not


# --- identity ------------------------------------------------------------------------------------------------------


_CAPSET = 126 if platform.machine() == "x86_64" else 91
_CAPABILITY_HEADER = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0), 8)
_NO_CAPABILITIES = ctypes.create_string_buffer(24)


def no_new_privileges() -> None:
    prctl(38, 1)


def undumpable() -> None:
    """No other process of the same user may read this one's memory."""
    prctl(4, 0)


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    syscall(_CAPSET, ctypes.addressof(_CAPABILITY_HEADER), ctypes.addressof(_NO_CAPABILITIES))


class Layers:
    """What holds the programs of one fork server, and why the rest is missing."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.missing: dict[str, str] = {}

    def add(self, name: str) -> None:
        self.names.append(name)

    def lack(self, name: str, why: object) -> None:
        self.missing[name] = str(why)
