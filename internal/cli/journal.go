package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/journal"
	"rebound/internal/journal/keyring"
	"rebound/internal/problem"
)

func (a *app) newJournal() *cobra.Command {
	cmd := &cobra.Command{
		Use: "journal", Short: "Work on a journal's directory, with everything else dead",
		Long: `Work on the directory of a group's journal at its standby. These commands need no
vault and no gateway, only the directory and the bases that it names.`,
		Example: "  rebound journal inspect DIR\n  rebound journal verify DIR",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var keyFile string
	cmd.PersistentFlags().StringVar(&keyFile, "key-file", "", "file with the keys of what is encrypted (default: $"+keyring.EnvVar+")")
	open := func(cmd *cobra.Command, dir string) (*journal.Journal, error) {
		opts, err := journalOptions(keyFile)
		if err != nil {
			return nil, err
		}
		return journal.OpenReadOnly(cmd.Context(), dir, opts)
	}
	cmd.AddCommand(a.newJournalInspect(), a.newJournalVerify(open), a.newJournalPoints(open), a.newJournalExport(&keyFile))
	return cmd
}

// openJournal opens a journal for reading with the keys of --key-file.
type openJournal func(cmd *cobra.Command, dir string) (*journal.Journal, error)

func journalOptions(keyFile string) (journal.Options, error) {
	keys, err := keyring.Load(keyFile, os.Getenv)
	return journal.Options{Keys: keys}, err
}

func (a *app) newJournalInspect() *cobra.Command {
	return &cobra.Command{
		Use: "inspect DIR", Short: "Say what a journal's directory holds",
		Example: "  rebound journal inspect /var/lib/rebound/gateway/journals/shop/journal -o json",
		Args:    exactly("DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			in, err := journal.Inspect(args[0], nil)
			if err != nil {
				return err
			}
			return a.print(in, func(t *table) {
				t.row("Group", in.Group)
				t.row("Owner", in.Owner)
				t.row("In use", in.InUse)
				t.row("Generation", in.Generation)
				t.row("Anchor", in.Anchor)
				t.row("Redo window", in.RedoWindow)
				for i, d := range in.Disks {
					t.row(fmt.Sprintf("Disk %d", i), fmt.Sprintf("%s/%s %d bytes, base %s", d.Machine, d.Disk, d.SizeBytes, in.BasePaths[i]))
				}
				if in.Keys.Keys > 0 {
					t.row("Encrypted", fmt.Sprintf("with data key %s, which key %s unwraps", in.Keys.Key, in.Keys.WrappedBy))
				}
				t.row("Segments", len(in.Segments))
				for _, v := range in.Views {
					t.row("View", fmt.Sprintf("%s of %s at %s", v.ID, v.Machine, v.Position))
				}
			})
		},
	}
}

func (a *app) newJournalVerify(open openJournal) *cobra.Command {
	return &cobra.Command{
		Use: "verify DIR", Short: "Read all redo, check every checksum, name the points that are hit",
		Example: "  rebound journal verify /var/lib/rebound/gateway/journals/shop/journal",
		Args:    exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			j, err := open(cmd, args[0])
			if err != nil {
				return err
			}
			defer j.Close()
			rep, err := j.Verify(cmd.Context())
			if err != nil {
				return err
			}
			err = a.print(rep, func(t *table) {
				t.row("Segments", rep.Segments)
				t.row("Frames", rep.Frames)
				t.row("Bytes", rep.Bytes)
				t.row("Base bytes", rep.BaseBytes)
				t.row("Without sums", rep.UnknownBytes)
				t.row("Damages", len(rep.Damages)+len(rep.Bases))
				for _, d := range rep.Damages {
					t.row("Redo", fmt.Sprintf("segment %d at %d, entries %s to %s: %s", d.Segment, d.Offset, d.From, d.To, d.Error))
				}
				for _, d := range rep.Bases {
					t.row("Base", fmt.Sprintf("disk %d, %d bytes at %d", d.Disk, d.Length, d.Offset))
				}
				t.row("Points", rep.Points)
				for _, p := range rep.Hit {
					t.row("Hit", fmt.Sprintf("%s %s %s", p.ID, p.Kind, p.Position))
				}
			})
			if n := len(rep.Damages) + len(rep.Bases); err == nil && n > 0 {
				err = problem.New(problem.JournalDamaged, "%d damages, %d of %d points are hit", n, len(rep.Hit), rep.Points)
			}
			return err
		},
	}
}

func (a *app) newJournalPoints(open openJournal) *cobra.Command {
	return &cobra.Command{
		Use: "points DIR", Short: "List the recovery points of a journal",
		Example: "  rebound journal points /var/lib/rebound/gateway/journals/shop/journal",
		Args:    exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			j, err := open(cmd, args[0])
			if err != nil {
				return err
			}
			defer j.Close()
			points := j.Points(journal.Filter{})
			return a.print(points, func(t *table) { pointRows(t, points) })
		},
	}
}

// pointRows lists points, newest last.
func pointRows(t *table, points []dr.Point) {
	t.head("TIME", "KIND", "NAME", "POSITION", "ID")
	for _, p := range points {
		t.row(when(p.Time), p.Kind, p.Name, p.Position, p.ID)
	}
}

func (a *app) newJournalExport(keyFile *string) *cobra.Command {
	var point, disk, out, format string
	cmd := &cobra.Command{
		Use:   "export DIR --point P --disk MACHINE/DISK --out FILE",
		Short: "Write one disk at one moment into an image file",
		Long: `Write one disk at one moment into an image file. It works on a journal whose gateway
is gone; one that a gateway has open is refused, stop the gateway first.`,
		Example: `  rebound journal export DIR --point latest --disk web/disk0 --out web0.qcow2
  rebound journal export DIR --point 2026-11-23T03:04:05Z --disk web/disk0 --format raw --out web0.raw`,
		Args: exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			machine, id, ok := strings.Cut(disk, "/")
			if disk != "" && !ok {
				return usageError{fmt.Errorf("--disk %q: want MACHINE/DISK, such as web/disk0", disk)}
			}
			if out == "" {
				return usageError{fmt.Errorf("--out is missing")}
			}
			opts, err := journalOptions(*keyFile)
			if err != nil {
				return err
			}
			bar := a.newBar("export")
			res, err := journal.Export(cmd.Context(), args[0], journal.ExportRequest{
				Selector: dr.PointSelector(point), Machine: dr.MachineName(machine), Disk: dr.DiskID(id),
				Out: out, Format: journal.Format(format), Progress: bar.set,
			}, opts)
			bar.done()
			if err != nil {
				return err
			}
			return a.print(res, func(t *table) {
				t.row("Position", res.Position)
				t.row("Time", when(res.Time))
				t.row("File", out)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&point, "point", string(dr.Latest), "latest, a point's ID, an RFC 3339 time, or @POSITION")
	f.StringVar(&disk, "disk", "", "MACHINE/DISK (may be left out when there is one)")
	f.StringVar(&out, "out", "", "file to write; must not exist")
	f.StringVar(&format, "format", string(journal.QCOW2), "qcow2 or raw")
	return cmd
}
