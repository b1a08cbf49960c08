package dr

// PlanID names a recovery plan.
type PlanID string
