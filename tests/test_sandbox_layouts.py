"""Isolation holds wherever the environment, the checkout and the home lie."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mucode_agent.tools import runner
from mucode_agent.tools.local import LocalSandbox
from mucode_agent.types import Job

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs namespaces")
RUNNER = Path(runner.__file__).parent
MAIN = """
import json, sys
from {package}.pool import Pool
pool = Pool(1, preload=("outer",))
jobs = [
    {{
        "code": "import outer, outer.late, helper\\ndef f(x): return outer.late.add(x, helper.ONE)",
        "tests": ["assert f(1) == 2"],
    }},
    {{"code": "import outer\\ndef f(x): return open(outer.__file__).read(5)", "tests": ["assert f(1) == 'impor'"]}},
    {{"code": "def f(x): open('/tmp/a', 'w').write(x); return open('a').read()", "tests": ["assert f('hi') == 'hi'"]}},
    {{"code": "import beside", "tests": ["assert f(1)"]}},
    {{"code": "import os\\ndef f(x): return os.path.exists(x)", "tests": ["assert f({secret!r}) is False"]}},
]
found = [pool.submit(job).result() for job in jobs]
print(json.dumps([pool.layers()[0], [report["status"] for report in found], found]))
pool.close()
"""


def environment(place: Path) -> tuple[Path, Path]:
    """A copy of the runner and a directory of packages; returns the directory of each."""
    packages = place / "site-packages"
    (packages / "outer").mkdir(parents=True)
    (packages / "outer" / "__init__.py").write_text("import helper")
    (packages / "outer" / "late.py").write_text("def add(a, b): return a + b")
    (packages / "helper.py").write_text("ONE = 1")
    (packages / "beside.py").write_text("SECRET = 1")
    (place / "runners").mkdir()
    (place / "runners" / "sandboxed").symlink_to(RUNNER)
    return place / "runners", packages


@pytest.fixture(scope="module")
def full():
    with_all = LocalSandbox(workers=1)
    isolation = with_all.isolation
    with_all.close()
    return isolation.split("+")


def result(runners: Path, packages: Path, home: Path | None = None) -> tuple[list[str], list[str], object]:
    code = MAIN.format(package="sandboxed", secret=str(packages / "beside.py"))
    path = os.pathsep.join([str(runners), str(packages)])
    variables = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(home or "/")}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    layers, statuses, reports = json.loads(done.stdout)
    return layers, statuses, reports


WANTED = ["passed", "passed", "passed", "exception", "passed"]


@pytest.mark.parametrize("above", ["/tmp", "/var/tmp"])
@pytest.mark.parametrize("name", ["plain", "with spaces and ünicode", "tmp"])
def test_an_environment_below_a_temporary_directory(full, above, name):
    if not os.access(above, os.W_OK):
        pytest.skip(f"{above} cannot be written")
    with tempfile.TemporaryDirectory(dir=above) as place:
        layers, statuses, reports = result(*environment(Path(place) / name))
    assert layers == full
    assert statuses == WANTED, reports


def test_an_environment_behind_a_symbolic_link(full, tmp_path):
    runners, packages = environment(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    layers, statuses, reports = result(*(tmp_path / "link" / path.name for path in (runners, packages)))
    assert layers == full
    assert statuses == WANTED, reports


def test_a_package_whose_files_are_links(full, tmp_path):
    """As uv makes them with `--link-mode symlink`, and editable installs."""
    runners, packages = environment(tmp_path / "cache")
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("outer", "helper.py", "beside.py"):
        (linked / name).symlink_to(packages / name)
    layers, statuses, reports = result(runners, linked)
    assert layers == full
    assert statuses == WANTED, reports


def test_a_home_that_cannot_be_written(full, tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    runners, packages = environment(tmp_path / "env")
    for place in (runners, packages):
        place.chmod(0o555)
    layers, statuses, reports = result(runners, packages, home)
    for place in (runners, packages, home):
        place.chmod(0o755)
    assert layers == full
    assert statuses == WANTED, reports


def test_a_program_cannot_put_its_own_module_in_the_place_of_the_judges(tmp_path):
    """Where packages lie below /tmp, as the programs' files do."""
    runners, packages = environment(tmp_path)
    code = (
        "import os\nos.makedirs({where!r}, exist_ok=True)\n"
        "open({where!r} + '/late_for_tests.py', 'w').write('def same(a, b): return True')\ndef f(x): return 5"
    )
    (packages / "outer" / "late_for_tests.py").write_text("def same(a, b): return a == b")
    main = (
        "import json\nfrom sandboxed.pool import Pool\npool = Pool(1, preload=('outer',))\n"
        f"code = {code.format(where=str(packages / 'outer'))!r}\n"
        "test = 'from outer.late_for_tests import same\\nassert same(f(1), 4)'\n"
        "print([pool.submit({'code': code, 'tests': [test]}).result()['status'] for _ in range(2)])\npool.close()"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(runners), str(packages)])}
    done = subprocess.run([sys.executable, "-c", main], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "['wrong_answer', 'wrong_answer']\n"


def test_the_programs_tmp_is_their_own():
    look = "import os\ndef f(): return sorted(os.listdir('/tmp')), os.path.realpath('/tmp') == os.getcwd()"
    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        if "namespaces" not in sandbox.isolation:
            pytest.skip("programs see the host's")
        assert sandbox.submit(Job(code=look, tests=("assert f() == ([], True)",))).result(60).passed
