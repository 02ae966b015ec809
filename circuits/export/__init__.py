"""Files and figures that leave the project, one format a file."""
