from quantize.cli import app

app()
