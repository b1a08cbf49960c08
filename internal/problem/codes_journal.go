package problem

// Codes about what a journal needs to be read, mended or extended.
const (
	KeyMissing   Code = "KeyMissing"
	KeyWrong     Code = "KeyWrong"
	KeyNotUsable Code = "KeyNotUsable"
)

var journalCodes = map[Code]Problem{
	KeyMissing:   {Kind: Conflict, Title: "What is encrypted cannot be read: its key is missing", PossibleCauses: []string{"The gateway was started without --key-file and without $REBOUND_KEY", "The command was called without --key-file"}, RecommendedAction: "Give the key file that the gateway had; the detail names the key. Nothing was changed and nothing is lost."},
	KeyWrong:     {Kind: Conflict, Title: "What is encrypted cannot be read: the key is another one", PossibleCauses: []string{"The key file was replaced, and the old key was not kept in it"}, RecommendedAction: "Put the key that the detail names into the key file, below the new one; then the gateway wraps anew with the new one. Nothing was changed and nothing is lost."},
	KeyNotUsable: {Kind: Invalid, Title: "The key file cannot be used", RecommendedAction: "It holds a key a line, 64 hexadecimal digits each, and is closed to others (chmod 600). 'openssl rand -hex 32' makes a key."},
}
