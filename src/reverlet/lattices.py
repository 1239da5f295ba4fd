"""Boxes of atoms on lattices, to start from."""

from ._lattices import bcc as bcc, diamond as diamond, fcc as fcc, simple_cubic as simple_cubic
