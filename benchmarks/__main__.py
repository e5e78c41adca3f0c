from train.entry import run


def main() -> None:
    from benchmarks.cli import main

    main()


run(main)
