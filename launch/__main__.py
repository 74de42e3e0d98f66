"""``python -m launch`` is ``rlenv``, also where only the code is there, as in a submitted job."""

from launch.cli.main import main

if __name__ == "__main__":
    main()
