"""One run from file to file: open, apply passes, stage the result, verify, measure, judge, commit.

It knows no command line, and no pass by name: what to do comes as a recipe.
"""
