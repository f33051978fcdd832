"""The paper's evaluation of a model of any domain: tasks, baselines, ablations, measures and the report."""
