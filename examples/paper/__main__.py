"""Runs ``python -m regime_proto.examples.paper``."""

from regime_proto.examples.paper.command import main

main(prog_name="python -m regime_proto.examples.paper")
