"""`python -m mucode_agent`."""

from mucode_agent.cli.app import main

if __name__ == "__main__":
    main()
