"""What methods return: circuits, scored edges and scored nodes, and the files they are kept in."""
