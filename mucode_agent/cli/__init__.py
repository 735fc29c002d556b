"""The command line, one file a group of commands. Each imports what it works with when it runs, not before."""
