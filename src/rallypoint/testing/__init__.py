"""For tests of Rallypoint, of programs that embed it, and of new backends."""
