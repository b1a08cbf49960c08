package health

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"rebound/internal/vault/rest"
)

// The limits of the vault's and gateways' rows.
const (
	// certificateWarning is below what is left when a certificate renews itself
	// (a third of 90 days): then something keeps it from that.
	certificateWarning  = 20 * day
	certificateCritical = 7 * day
	// caWarning: Azure gives notice of a server's certificate two months before.
	caWarning  = 60 * day
	caCritical = 14 * day
	// SkewWarning is where RPO values become doubtful, skewCritical where new
	// protections are refused; skewClear ends the warning.
	SkewWarning  = 30 * time.Second
	skewClear    = 20 * time.Second
	skewCritical = 5 * time.Minute
	// volumeSlack is how many percent above a limit a volume must be to be well again.
	volumeSlack = 2
	// hookWarning is for how long a webhook may fail.
	hookWarning = 15 * time.Minute
	// siteSilence is the silence of all gateways that makes a site unreachable.
	siteSilence = 15 * time.Second
	// The load of a host: Azure's process server warns at 80 and 95 percent.
	busyWarning  = 0.80
	busyCritical = 0.95
)

func vaultRows() []Row {
	return []Row{{
		Code: "VaultBackupOverdue", Title: "The vault has not been backed up", Object: rest.ObjectVault, Severities: warning(),
		When:   "The last backup of the vault, or its creation when there is none, is older than backupDays (7).",
		Causes: []string{"No backup was set up", "The backup job fails"},
		Action: "Run 'rebound vault backup' and make it a daily job. Without it a lost vault can be rebuilt from the gateways, but without users, plans and history.",
		find: func(e *eval) {
			o, limit := rest.Object{ID: e.Vault.ID}, e.Settings.BackupDays
			last, what := e.Vault.LastBackup, "the vault was last backed up %s ago"
			if last.IsZero() {
				last, what = e.Vault.Created, "the vault was never backed up; it is %s old"
			}
			if limit > 0 && !last.IsZero() && e.age(last) > time.Duration(limit)*day {
				e.raise(o, rest.SeverityWarning, what, about(e.age(last)))
			}
		},
	}, {
		Code: "VaultCertificateEnding", Title: "The certificate of the vault's authority ends soon", Object: rest.ObjectVault, Severities: both(),
		When:   "Warning from 60 days before its end, critical from 14 days.",
		Causes: []string{"The vault is almost twenty years old", "The clock of the vault is wrong"},
		Action: "Check the vault's clock. If it is right, set up a new vault and adopt the gateways; everything stops when the certificate ends.",
		Azure:  "notices from two months before the configuration server's certificate ends",
		find: func(e *eval) {
			endsSoon(e, rest.Object{ID: e.Vault.ID}, "the vault's authority", e.Vault.CAEnds, caWarning, caCritical)
		},
	}, {
		Code: "VaultVolumeFilling", Title: "The vault's volume is filling", Object: rest.ObjectVault, Severities: both(),
		When:   "Less than volumeWarningPercent (30) free, critical below volumeCriticalPercent (25) divided by 5; it goes 2 percent above.",
		Causes: []string{"Other programs use the volume", "Backups are kept beside the vault"},
		Action: "Make room on the volume of the vault's directory. A vault that cannot write stops its jobs; replication goes on.",
		find: func(e *eval) {
			// The vault needs little: a fifth of what a gateway needs.
			s := e.Settings
			s.VolumeWarning, s.VolumeCritical = s.VolumeWarning/5, s.VolumeCritical/5
			o := rest.Object{ID: e.Vault.ID}
			if sev, pct, bad := filling(e, o, s, e.Vault.FreeBytes, e.Vault.TotalBytes); bad {
				e.raise(o, sev, "the volume of the vault's directory has %.0f %% free (%s)", pct, size(e.Vault.FreeBytes))
			}
		},
	}, {
		Code: "WebhookFailing", Title: "A webhook cannot be delivered", Object: rest.ObjectWebhook, Severities: warning(),
		When:   "Its oldest delivery has failed for 15 minutes, or deliveries were given up.",
		Causes: []string{"The receiver is down or refuses", "The address or the secret is wrong", "A firewall stands between"},
		Action: "See the error with 'rebound webhook show', mend the receiver, and run 'rebound webhook test'. Deliveries that were given up are listed by 'rebound webhook show'; 'rebound webhook retry' sends them again.",
		find: func(e *eval) {
			for _, h := range e.Webhooks {
				o := rest.Object{ID: h.ID}
				switch {
				case h.Dead > 0:
					e.raise(o, rest.SeverityWarning, "webhook %s: %d deliveries were given up: %s", h.ID, h.Dead, h.LastError)
				case h.Enabled && e.age(h.FailingSince) > hookWarning:
					e.raise(o, rest.SeverityWarning, "webhook %s has failed for %s, %d deliveries wait: %s", h.ID, about(e.age(h.FailingSince)), h.Waiting, h.LastError)
				}
			}
		},
	}}
}

// endsSoon raises for a certificate that ends.
func endsSoon(e *eval, o rest.Object, what string, ends time.Time, warn, crit time.Duration) {
	left := ends.Sub(e.Now)
	switch {
	case ends.IsZero() || left > warn:
	case left <= 0:
		e.raise(o, rest.SeverityCritical, "the certificate of %s has ended", what)
	default:
		e.raise(o, from(left < crit), "the certificate of %s ends in %s", what, about(left))
	}
}

func gatewayRows() []Row {
	return []Row{{
		Code: "SiteUnreachable", Title: "No gateway of the site is heard of", Object: rest.ObjectSite, Severities: critical(), Spreads: true,
		When:   "Every enrolled gateway of the site has been silent for 15 seconds.",
		Causes: []string{"The site is lost", "The network between the vault and the site is down", "The gateways were stopped"},
		Action: "Look whether the site is lost. If it is, fail its groups over ('rebound group failover G --unplanned'). If only the vault is cut off, replication goes on by itself.",
		Azure:  "appliance burnt down: no component has a heartbeat",
		After:  3 * time.Second,
		find: func(e *eval) {
			for _, s := range e.Sites {
				if slices.ContainsFunc(e.Gateways, func(g Gateway) bool { return g.Site == s.ID && g.Pending }) {
					e.keep(rest.Object{ID: string(s.ID)})
					continue
				}
				if n := e.silentOf(&s); n > 0 && n == len(s.Gateways) {
					e.raise(rest.Object{ID: string(s.ID), Site: s.ID}, rest.SeverityCritical, "none of the %d gateways of site %s is heard of", n, s.ID)
				}
			}
		},
	}, {
		Code: "GatewaySilent", Title: "A gateway does not report", Object: rest.ObjectGateway, Severities: both(), Spreads: true,
		When:   "No report for heartbeatWarningSeconds (60), critical from heartbeatCriticalSeconds (900).",
		Causes: []string{"The gateway's process or host is down", "The network between it and the vault is down", "Its certificate has ended or was revoked"},
		Action: "Look at the gateway's host and its log, and whether it reaches the vault's port. Replication between gateways goes on without the vault.",
		Azure:  "process server: no heartbeat for 15 minutes (critical)",
		find: eachGateway(func(e *eval, g *Gateway, o rest.Object) {
			quiet := e.silence(g)
			if g.Pending {
				e.keep(o)
				return
			}
			if quiet >= time.Duration(e.Settings.HeartbeatWarning)*time.Second {
				e.raise(o, from(quiet >= time.Duration(e.Settings.HeartbeatCritical)*time.Second), "gateway %s has been silent for %s", g.ID, about(quiet))
			}
		}),
	}, {
		Code: "ClockSkew", Title: "A gateway's clock differs from the vault's", Object: rest.ObjectGateway, Severities: both(), Spreads: true,
		When:   "The clocks differ by more than 30 seconds, critical from 5 minutes (new protections are refused then); it goes below 20 seconds.",
		Causes: []string{"Time synchronisation is not running on the gateway or the vault", "A clock was set by hand"},
		Action: "Run time synchronisation (chrony or systemd-timesyncd) on both hosts. RPO values are corrected by the difference; points named by a time are not.",
		Azure:  "clock skew corrupts RPO values",
		find: eachGateway(func(e *eval, g *Gateway, o rest.Object) {
			off := g.Offset.Abs()
			switch {
			case !g.Known:
				e.keep(o)
			case e.over(o, off.Seconds(), SkewWarning.Seconds(), skewClear.Seconds()):
				e.raise(o, from(off > skewCritical), "the clock of gateway %s differs from the vault's by %s", g.ID, g.Offset.Round(time.Second))
			}
		}),
	}, {
		Code: "GatewayCertificateEnding", Title: "A gateway's certificate ends soon", Object: rest.ObjectGateway, Severities: both(),
		When:   "Warning from 20 days before its end, critical from 7 days. It renews itself long before.",
		Causes: []string{"The gateway has been away for weeks", "Its renewal fails: see its log"},
		Action: "Bring the gateway back, or look in its log why the renewal fails. One whose certificate has ended is enrolled again with 'rebound gateway enroll'.",
		find: eachGateway(func(e *eval, g *Gateway, o rest.Object) {
			endsSoon(e, o, "gateway "+string(g.ID), g.CertificateEnds, certificateWarning, certificateCritical)
		}),
	}, {
		Code: "GatewayBusy", Title: "A gateway's host is short of processors or memory", Object: rest.ObjectGateway, Severities: both(),
		When:   "Load above 80 percent of the processors or less than 20 percent of memory available, for 15 minutes; critical at 95 and 5 percent.",
		Causes: []string{"More machines write than the host can ship", "Other programs run on the host"},
		Action: "Give the host more processors or memory, or move machines to another gateway.",
		Azure:  "process server: CPU or memory > 80 % for 15 minutes, > 95 % critical",
		After:  15 * time.Minute, Hold: time.Minute,
		find: eachGateway(func(e *eval, g *Gateway, o rest.Object) {
			h := g.Host
			if !g.Known || h.CPUs == 0 || h.MemoryTotal == 0 {
				e.keep(o)
				return
			}
			cpu, mem := h.Load1/float64(h.CPUs), 1-float64(h.MemoryAvailable)/float64(h.MemoryTotal)
			if cpu > busyWarning || mem > busyWarning {
				e.raise(o, from(cpu > busyCritical && mem > busyWarning || mem > busyCritical), "the host of gateway %s: load %.0f %% of its processors, %.0f %% of its memory in use", g.ID, cpu*100, mem*100)
			}
		}),
	}}
}

// silence is for how long a gateway has not been heard of.
func (e *eval) silence(g *Gateway) time.Duration {
	last := g.LastSeen
	if last.Before(g.Since) {
		last = g.Since
	}
	return e.age(last)
}

// silentOf counts the gateways of a site that are silent.
func (e *eval) silentOf(s *Site) int {
	n := 0
	for i := range e.Gateways {
		if g := &e.Gateways[i]; g.Site == s.ID && e.silence(g) > siteSilence {
			n++
		}
	}
	return n
}

func volumeRows() []Row {
	return []Row{{
		Code: "VolumeFilling", Title: "A volume of a gateway is filling", Object: rest.ObjectGateway, Severities: both(), Spreads: true,
		When:   "A volume with journals, spool, disks or state has less than volumeWarningPercent (30) free, critical below volumeCriticalPercent (25); it goes 2 percent above.",
		Causes: []string{"The journals keep more history than the volume holds", "A machine writes more than it did", "Other programs use the volume"},
		Action: "Make room or enlarge the volume, or shorten the policy's redoWindowSeconds. At its reserve a journal takes nothing more; the machines go on, unprotected.",
		Azure:  "process server: cache free < 30 % warning, < 25 % critical",
		find: eachGateway(func(e *eval, g *Gateway, o rest.Object) {
			if !g.Known || len(g.Host.Volumes) == 0 {
				e.keep(o)
				return
			}
			var sev rest.Severity
			var text []string
			for _, v := range g.Host.Volumes {
				s, pct, bad := filling(e, o, e.Settings, v.FreeBytes, v.TotalBytes)
				if !bad {
					continue
				}
				if sev != rest.SeverityCritical {
					sev = s
				}
				text = append(text, fmt.Sprintf("%s (%s): %.0f %% free (%s)", v.Path, strings.Join(v.Uses, ", "), pct, size(v.FreeBytes)))
			}
			if len(text) > 0 {
				e.raise(o, sev, "gateway %s: %s", g.ID, strings.Join(text, "; "))
			}
		}),
	}}
}

// filling grades the room on a volume.
func filling(e *eval, o rest.Object, s rest.HealthSettings, free, total int64) (sev rest.Severity, pct float64, bad bool) {
	if total <= 0 {
		if e.was(o) != nil {
			e.keep(o)
		}
		return "", 0, false
	}
	pct = 100 * float64(free) / float64(total)
	limit, crit := float64(s.VolumeWarning), float64(s.VolumeCritical)
	if c := e.was(o); c != nil {
		limit += volumeSlack
		if c.Severity == rest.SeverityCritical {
			crit += volumeSlack
		}
	}
	return from(pct < crit), pct, pct < limit
}

// size prints bytes for people.
func size(n int64) string {
	unit, v := 0, float64(n)
	for ; v >= 1024 && unit < 5; unit++ {
		v /= 1024
	}
	return fmt.Sprintf("%.1f %s", v, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[unit])
}
