"""`python -m service.engine ROLE DESCRIPTOR`, as the supervisor calls it."""

from service.engine.process import main

if __name__ == "__main__":
    main()
