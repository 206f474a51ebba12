"""What every test needs: the quiet start that the command gives its users."""

from pipeline.quiet import silence

silence()
