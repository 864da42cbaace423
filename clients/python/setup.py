"""Makes `tranche_client.rest` from the checked-in OpenAPI document whenever the package is built.

`pip install` from the repository does that, too. Everything else about the package is in pyproject.toml.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
# Beside the package in a source archive, else where the repository has it.
DOCUMENT = next(path for path in [HERE / "v1.json", HERE.parents[1] / "openapi" / "v1.json"] if path.is_file())

sys.path.insert(0, str(HERE))
from prepare import prepared  # noqa: E402


class Build(build_py):
    """Generates before all else is copied."""

    def run(self) -> None:
        super().run()
        target = Path(self.build_lib) / "tranche_client" / "rest"
        with tempfile.TemporaryDirectory() as directory:
            document = Path(directory) / "v1.json"
            document.write_text(json.dumps(prepared(json.loads(DOCUMENT.read_text()))))
            config = Path(directory) / "config.yml"
            # Formatters of the generator's own taste; nobody reads the result.
            config.write_text("post_hooks: []\n")
            generate = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--overwrite", "--fail-on-warning"]
            subprocess.run([*generate, "--path", document, "--config", config, "--output-path", target], check=True)


setup(version=json.loads(DOCUMENT.read_text())["info"]["version"], cmdclass={"build_py": Build})
