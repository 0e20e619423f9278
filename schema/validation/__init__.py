"""What a trajectory file must be: the rules, and the checks that hold a file against them."""
