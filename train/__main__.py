from train.entry import run


def main() -> None:
    from train.cli import app

    app()


run(main)
