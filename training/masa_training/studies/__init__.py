"""Studies: grids of experiments whose table is computed from one small file per finished cell."""
