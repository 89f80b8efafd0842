"""The operators' sources and the config files travel in the wheel; everything else is in pyproject.toml.

Nothing here imports torch or compiles: a build in isolation sees neither. The operators are built on the user's
machine, by `maskrcnn build` or when first imported.
"""

from setuptools import find_namespace_packages, find_packages, setup

config_folders = [f"maskrcnn.configs.{folder}" for folder in find_namespace_packages("configs")]

setup(
    packages=[*find_packages(include=["maskrcnn", "maskrcnn.*"]), "maskrcnn.csrc", "maskrcnn.configs", *config_folders],
    package_dir={"maskrcnn": "maskrcnn", "maskrcnn.csrc": "csrc", "maskrcnn.configs": "configs"},
    package_data={
        "": ["*.yaml", "py.typed"],
        "maskrcnn.csrc": ["*"],
        "maskrcnn.engine.report": ["web/*", "web/vendor/*"],
    },
)
