from __future__ import annotations

import subprocess
import sys


def test_help_does_not_import_anything_heavy() -> None:
    code = (
        "import sys; from lakeward.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "packages = 'pyarrow numpy rocksdict confluent_kafka pyiceberg starlette uvicorn'\n"
        "heavy = set(packages.split()) & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("run", "explain", "demo", "checkpoints"):
        assert command in done.stdout
