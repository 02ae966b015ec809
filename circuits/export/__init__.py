"""Files and figures that leave the project, one file per format."""
