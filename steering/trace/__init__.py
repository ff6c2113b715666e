"""Is what a model knows still there when it is steered away from it?"""
