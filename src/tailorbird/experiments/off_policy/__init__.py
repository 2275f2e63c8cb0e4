"""Off-policy evaluation: the value of a policy from the log of another one.

`sample` holds logged rewards and importance weights, `estimators` turns them into terms,
`support` refuses what the log cannot tell, and `evaluate` gives values with intervals.

Every value is a one-step reward over logged contexts: it leaves out that another policy brings
people back, or teaches them something else.
"""
