package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"rebound/internal/vault/backup"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// passphraseOf reads the passphrase of a backup from a file, or from
// $REBOUND_BACKUP_PASSPHRASE; "" when there is neither.
func passphraseOf(file string) (string, error) {
	if file == "" {
		return os.Getenv("REBOUND_BACKUP_PASSPHRASE"), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", usageError{fmt.Errorf("--passphrase-file: %w", err)}
	}
	pass := strings.TrimRight(string(b), "\r\n")
	if pass == "" {
		return "", usageError{fmt.Errorf("--passphrase-file: %s is empty", file)}
	}
	return pass, nil
}

func (a *app) newVaultBackup() *cobra.Command {
	var dir, out, passFile string
	cmd := &cobra.Command{
		Use: "backup --out FILE", Short: "Write everything that the vault remembers to one file",
		Long: `Write everything that the vault remembers to one file, while it runs: both databases at
one moment, the authority with its key, the first token. Run it on the vault's host.

The file lets its holder act as the vault. It is encrypted when there is a passphrase
(--passphrase-file, or $REBOUND_BACKUP_PASSPHRASE), in the format of age. Without one keep it
as you keep the vault's own directory.`,
		Example: `  rebound vault backup --dir /var/lib/rebound/vault --out /backup/vault-2026-05-01.rbk \
      --passphrase-file /etc/rebound/backup-passphrase`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usageError{errors.New("--out is missing: the file to write")}
			}
			pass, err := passphraseOf(passFile)
			if err != nil {
				return err
			}
			m, err := backup.Write(cmd.Context(), dir, out, backup.Options{Passphrase: pass, Program: Version})
			if err != nil {
				return err
			}
			return a.print(m, func(t *table) {
				t.row("Vault", m.Vault)
				t.row("Moment", when(m.At))
				t.row("File", out)
				t.row("Encrypted", pass != "")
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "/var/lib/rebound/vault", "the vault's directory")
	f.StringVar(&out, "out", "", "file to write; one that is there is replaced once the new one is whole")
	f.StringVar(&passFile, "passphrase-file", "", "file with the passphrase to encrypt with")
	return cmd
}

func (a *app) newVaultRestore() *cobra.Command {
	var dir, passFile string
	cmd := &cobra.Command{
		Use: "restore FILE --dir DIR", Short: "Make a vault's directory of a backup",
		Long: `Make a new directory of a backup. The file is checked as a whole before the directory is
touched.

The vault that is started there goes on with the same authority: gateways and agents connect
without enrolling again. What ran when the backup was made is ended as failed. Each group is
'unconfirmed' until its gateways have said how it stands: their word wins, also about the
generation. Settings, users, tokens and revocations made after the backup are lost. End the old
vault first: two vaults of one identity must never run.`,
		Example: `  rebound vault restore /backup/vault-2026-05-01.rbk --dir /var/lib/rebound/vault
  rebound vault serve --dir /var/lib/rebound/vault`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pass, err := passphraseOf(passFile)
			if err != nil {
				return err
			}
			m, err := backup.Restore(cmd.Context(), args[0], dir, backup.Options{Passphrase: pass})
			if err != nil {
				return err
			}
			return a.print(m, func(t *table) {
				t.row("Vault", m.Vault)
				t.row("Moment", when(m.At))
				t.row("Made by", m.Program)
				t.row("Directory", dir)
				t.row("Next", "rebound vault serve --dir "+dir)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "/var/lib/rebound/vault", "directory to make; it must not hold anything")
	f.StringVar(&passFile, "passphrase-file", "", "file with the backup's passphrase")
	return cmd
}

func (a *app) newVaultAdopt() *cobra.Command {
	var req rest.AdoptRequest
	cmd := &cobra.Command{
		Use: "adopt", Short: "Rebuild the inventory of a lost vault from its gateways",
		Long: `Ask every connected gateway what it keeps, and take over the groups that this vault does
not know: settings, policy, machines, generation, direction and state. Groups that it knows are
left alone, but for those that are unconfirmed after a restore.

A group is taken over once both of its gateways have answered. With --partial the word of one is
enough: for a site that is lost. Users, tokens, webhooks, mappings, plans and history are not
kept by gateways; the answer says so.`,
		Example: `  rebound vault adopt --dry-run
  rebound vault adopt
  rebound vault adopt --partial`,
		Args: cobra.NoArgs, Annotations: map[string]string{dryRunKey: "yes"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.DryRun = a.dryRun
			return a.withClient(func(c *client.Client) error {
				out, err := c.Adopt(cmd.Context(), req)
				if err != nil {
					return err
				}
				return a.print(out, func(t *table) { adoptionTable(t, out) })
			})
		},
	}
	cmd.Flags().BoolVar(&req.Partial, "partial", false, "take the word of one gateway of a group where the other is away")
	return cmd
}

func adoptionTable(t *table, out rest.Adoption) {
	t.head("GROUP", "RESULT", "STATE", "GENERATION", "ACTIVE", "NOTES")
	for _, g := range out.Groups {
		t.row(g.Group, g.Result, or(g.State), g.Generation, or(g.Active), or(strings.Join(g.Notes, "; ")))
	}
	for _, gw := range out.Silent {
		t.row("gateway "+string(gw), "silent", "", "", "", "it did not answer")
	}
	for _, text := range out.Unknown {
		t.row("not known", "", "", "", "", text)
	}
}
