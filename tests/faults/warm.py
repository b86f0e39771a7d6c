"""Imports whatever the tiny experiments name, for the process that lives are forked from."""

from common.config import CONF, check
from launchers.command import compose

for path in sorted((CONF / "experiment").glob("*_tiny.yaml")):
    check(compose(f"experiment={path.stem}", "paths.run=."))
