//go:build sabotage_confirmlate

package capture

const sabotageConfirmLate = true
