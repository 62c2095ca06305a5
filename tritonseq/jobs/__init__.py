"""From file to file, so that nothing is lost: input, output, journal."""
