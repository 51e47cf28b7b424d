package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/reconcile"
)

func (c *command) packSign() *cobra.Command {
	var keyFile, newKey string
	cmd := &cobra.Command{
		Use:   "sign PATH…",
		Short: "Sign packs, or the packs in folders; needs no daemon",
		Long: "Signs all that a pack is: its name, its files, their x bits and links. The signature is the file\n" +
			"pack.sig in it, which belongs into version control beside the rest. Whatever changes afterwards\n" +
			"wants a new one.\n\n" +
			"The key is Ed25519, in a file of mode 0600 that --new-key makes, or `openssl genpkey -algorithm\n" +
			"ed25519`. Keep it away from the machines that run packs: they need its public half alone, which is\n" +
			"printed, as one of packs.keys in attune.toml.",
		Example: "  attune pack sign --new-key ~/attune-signing.key packs/tour\n  attune pack sign --key ~/attune-signing.key packs/",
		Args:    cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			folders, err := packFolders("sign", args)
			if err != nil {
				return err
			}
			key, err := signingKey(keyFile, newKey, args)
			if err != nil {
				return err
			}
			for _, path := range folders {
				ref, err := reconcile.Sign(path, key)
				if err != nil {
					return err
				}
				c.note("signed %s", ref)
			}
			public := key.Public().Encoded()
			return c.print(map[string]any{"public_key": public}, func(w io.Writer) { fmt.Fprintln(w, public) })
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "the file with the private key")
	cmd.Flags().StringVar(&newKey, "new-key", "", "make a key, and write it to this file")
	return cmd
}

func signingKey(keyFile, newKey string, paths []string) (reconcile.SigningKey, error) {
	switch {
	case keyFile == "" && newKey == "":
		return reconcile.SigningKey{}, &usageError{text: "cannot sign without a key", hint: "Name one by --key FILE, or make one by --new-key FILE."}
	case keyFile != "" && newKey != "":
		return reconcile.SigningKey{}, &usageError{text: "cannot use --key and --new-key together"}
	case newKey != "":
		return reconcile.NewSigningKey(newKey)
	case len(paths) == 0:
		return reconcile.SigningKey{}, &usageError{text: "cannot sign nothing: name the folders of packs"}
	default:
		key, err := reconcile.ReadSigningKey(keyFile)
		if err != nil {
			return key, &usageError{text: err.Error()}
		}
		return key, nil
	}
}

func (c *command) packVerify() *cobra.Command {
	var keys []string
	cmd := &cobra.Command{
		Use:   "verify PATH…",
		Short: "Check signatures of packs, or of folders of packs; needs no daemon",
		Long: "Checks whether packs, or the packs in folders, are what was signed by one of packs.keys in attune.toml, or of --key, and says\n" +
			"by whom, or which files differ.\n\n" +
			"Exits 1 if one is not, and 2 if a path is no pack.",
		Example: "  attune pack verify packs/\n  attune pack verify --key 'MCowBQYDK2VwAyEA… ada' packs/tour",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			trust, err := c.trusted(keys)
			if err != nil {
				return err
			}
			list := []verified{}
			bad := false
			folders, err := packFolders("verify", args)
			if err != nil {
				return err
			}
			for _, path := range folders {
				ref, by, err := trust.Verify(path)
				if err != nil && ref == "" {
					return err
				}
				one := verified{Pack: ref, Good: err == nil}
				if err != nil {
					one.Problem, bad = err.Error(), true
				} else {
					one.By = by.String()
				}
				list = append(list, one)
			}
			if err := c.print(list, func(w io.Writer) {
				for _, one := range list {
					if one.Good {
						fmt.Fprintf(w, "%s: good, signed by %s\n", one.Pack, one.By)
					} else {
						fmt.Fprintf(w, "%s: %s\n", one.Pack, one.Problem)
					}
				}
			}); err != nil {
				return err
			}
			if bad {
				return &exitError{exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "a public key that counts, instead of packs.keys; may be repeated")
	return cmd
}

// packFolders gives the folders of the packs at paths, as `pack lint` takes them.
func packFolders(verb string, paths []string) ([]string, error) {
	var folders []string
	for _, path := range paths {
		found, err := reconcile.PackFolders(path)
		if err != nil {
			return nil, usagef("cannot %s %s: %v", verb, path, err)
		}
		folders = append(folders, found...)
	}
	return folders, nil
}

// verified is what `pack verify` tells of a pack.
type verified struct {
	Pack    string `json:"pack"`
	Good    bool   `json:"good"`
	By      string `json:"by,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// trusted gives the keys that count: those named, else the configured ones.
func (c *command) trusted(keys []string) (reconcile.Trust, error) {
	if len(keys) == 0 {
		cfg, err := c.config()
		if err != nil {
			return reconcile.Trust{}, err
		}
		trust := cfg.Trust()
		if len(trust.Keys) == 0 {
			return trust, &usageError{text: "cannot verify without keys: attune.toml has no packs.keys", hint: "Name one by --key."}
		}
		return trust, nil
	}
	trust := reconcile.Trust{}
	for _, text := range keys {
		key, err := reconcile.ParsePublicKey(text)
		if err != nil {
			return trust, &usageError{text: fmt.Sprintf("cannot use --key %q: %v", text, err)}
		}
		trust.Keys = append(trust.Keys, key)
	}
	return trust, nil
}
