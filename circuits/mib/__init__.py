"""The circuit track of MIB (Mueller et al. 2025, 2504.13151): its data, its files, and its areas under the curve."""
