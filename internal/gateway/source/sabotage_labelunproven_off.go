//go:build !sabotage_labelunproven

package source

// sabotageLabelUnproven is the bug of labelling a point whose guests had
// thawed before it was made.
const sabotageLabelUnproven = false
