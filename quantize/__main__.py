from train.entry import run


def main() -> None:
    from quantize.cli import app

    app()


run(main)
