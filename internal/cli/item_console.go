package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// consoleEvery is the time between two looks of --follow.
const consoleEvery = 2 * time.Second

func (a *app) newItemConsole() *cobra.Command {
	var machine, picture string
	var follow bool
	cmd := &cobra.Command{
		Use: "console ITEM", Short: "Show what an item's machine shows: console text, or a picture of its display",
		Long: "Show the end of what the item's machine wrote to its serial console since it started, so that one can see that it booted. " +
			"While a test failover runs, the test machine is shown. A machine with a display has a picture, too.",
		Example: "  rebound item console web\n  rebound item console web --machine active --picture web.png\n  rebound item console web --follow",
		Args:    exactly("ITEM"), ValidArgsFunction: a.completeItems,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				look := func() (rest.Console, error) { return c.Console(cmd.Context(), dr.ItemID(args[0]), machine) }
				if follow {
					return followConsole(cmd.Context(), a.Out, look)
				}
				v, err := look()
				if err != nil {
					return err
				}
				if picture != "" {
					if err := savePicture(v, picture); err != nil {
						return err
					}
				}
				return a.print(v, func(t *table) {
					t.row("Machine", fmt.Sprintf("%s at %s, %s", v.Machine, v.Site, v.State))
					t.row("Started", when(v.BootedAt))
					t.row("Picture", pictureText(v))
					t.row("\n" + strings.ReplaceAll(v.Text, "\t", "    "))
				})
			})
		},
	}
	cmd.Flags().StringVar(&machine, "machine", "", "which machine: active or test (default: that of the test failover where there is one)")
	cmd.Flags().StringVar(&picture, "picture", "", "write the picture of the display to this PNG file")
	cmd.Flags().BoolVar(&follow, "follow", false, "go on and show what is added, until interrupted")
	return cmd
}

func pictureText(v rest.Console) string {
	switch {
	case v.PictureProblem != "":
		return "none: " + v.PictureProblem
	case v.Picture == nil:
		return "none: the machine has no display"
	default:
		return fmt.Sprintf("%d x %d", v.Width, v.Height)
	}
}

func savePicture(v rest.Console, path string) error {
	if v.Picture == nil {
		return problem.New(problem.ConsoleUnavailable, "no picture to write: %s", pictureText(v))
	}
	return os.WriteFile(path, v.Picture, 0o600)
}

// followConsole writes the text and then what is added to it. What was shown
// before is found in the new text by its last lines, because only the end of
// the console is kept.
func followConsole(ctx context.Context, out io.Writer, look func() (rest.Console, error)) error {
	tick := time.NewTicker(consoleEvery)
	defer tick.Stop()
	seen := ""
	for {
		v, err := look()
		if err != nil {
			return err
		}
		if _, err := io.WriteString(out, addedText(seen, v.Text)); err != nil {
			return err
		}
		seen = v.Text
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// addedText is what text has beyond seen: all of it when nothing of seen is
// left. A last line that was not finished is shown again.
func addedText(seen, text string) string {
	if seen == text {
		return ""
	}
	seen = strings.TrimSuffix(seen, "\n")
	for from := 0; from < len(seen); {
		if rest, ok := strings.CutPrefix(text, seen[from:]); ok {
			return strings.TrimPrefix(rest, "\n")
		}
		i := strings.IndexByte(seen[from:], '\n')
		if i < 0 {
			break
		}
		from += i + 1
	}
	return text
}
