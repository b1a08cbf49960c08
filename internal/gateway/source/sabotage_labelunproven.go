//go:build sabotage_labelunproven

package source

const sabotageLabelUnproven = true
