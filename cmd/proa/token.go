package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/proa-dev/proa/internal/bootstraptoken"
)

// tokenAccess is how the token verbs reach the cluster: as an administrator.
type tokenAccess struct{ kubeconfig string }

func tokenCommand() *cobra.Command {
	a := &tokenAccess{}
	cmd := group("token", "Make, list and delete the tokens by which nodes join")
	cmd.PersistentFlags().StringVar(&a.kubeconfig, "kubeconfig", "", "an administrator's kubeconfig (default: the environment's KUBECONFIG, else "+defaultKubeconfig+")")
	cmd.AddCommand(tokenCreateCommand(a), tokenListCommand(a), tokenDeleteCommand(a))
	return cmd
}

// tokenTime bounds a token verb.
const tokenTime = 30 * time.Second

// connect returns the tokens' Secrets and the configuration they were reached by.
func (a *tokenAccess) connect() (typedv1.SecretInterface, *rest.Config, error) {
	path := a.kubeconfig
	if path == "" {
		path = os.Getenv("KUBECONFIG")
	}
	if path == "" {
		path = defaultKubeconfig
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, nil, fmt.Errorf("no kubeconfig of an administrator: %w (give it by --kubeconfig)", err)
	}
	cfg.Timeout = tokenTime
	core, err := typedv1.NewForConfig(cfg)
	if err != nil {
		return nil, nil, err
	}
	return core.Secrets(metav1.NamespaceSystem), cfg, nil
}

func tokenCreateCommand(a *tokenAccess) *cobra.Command {
	var ttl time.Duration
	var o bootstraptoken.Options
	cmd := &cobra.Command{
		Use:   "create [id.secret]",
		Short: "Make a token and print it",
		Long:  "Make a token by which nodes join, and print it: `proa agent --server https://…:6443 --token …`.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := bootstraptoken.New()
			if len(args) == 1 {
				token, err = bootstraptoken.Parse(args[0])
			}
			if err != nil {
				return err
			}
			if ttl < 0 {
				return fmt.Errorf("--ttl: %s is in the past", ttl)
			}
			if ttl > 0 {
				o.Expires = time.Now().Add(ttl)
			}
			if err := o.Validate(); err != nil {
				return err
			}
			text, err := a.create(cmd.Context(), token, o)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), text)
			return nil
		},
	}
	f := cmd.Flags()
	f.DurationVar(&ttl, "ttl", 24*time.Hour, "how long the token is good; 0 is for ever")
	f.StringSliceVar(&o.Usages, "usages", []string{bootstraptoken.UsageSigning, bootstraptoken.UsageAuthentication}, "what the token may be used for")
	f.StringSliceVar(&o.Groups, "groups", []string{bootstraptoken.NodeGroup}, "groups of those who show it")
	f.StringVar(&o.Description, "description", "", "what the token is for")
	return cmd
}

func (a *tokenAccess) create(ctx context.Context, token bootstraptoken.Token, o bootstraptoken.Options) (string, error) {
	secrets, cfg, err := a.connect()
	if err != nil {
		return "", err
	}
	if err := rest.LoadTLSFiles(cfg); err != nil {
		return "", err
	}
	hash, err := bootstraptoken.CAHash(cfg.CAData)
	if err != nil {
		return "", fmt.Errorf("the kubeconfig does not hold the cluster's CA: %w", err)
	}
	_, err = secrets.Create(ctx, bootstraptoken.SecretOf(token, o), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return "", fmt.Errorf("a token with the id %s exists already", token.ID)
	}
	return token.Full(hash), err
}

func tokenListCommand(a *tokenAccess) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the tokens, without their secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			secrets, _, err := a.connect()
			if err != nil {
				return err
			}
			list, err := secrets.List(cmd.Context(), metav1.ListOptions{FieldSelector: "type=" + string(bootstraptoken.SecretType)})
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(w, "ID\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tGROUPS")
			for i := range list.Items {
				fmt.Fprintln(w, tokenRow(&list.Items[i], time.Now()))
			}
			return w.Flush()
		},
	}
}

func tokenRow(s *corev1.Secret, now time.Time) string {
	token, o, err := bootstraptoken.Read(s)
	if err != nil {
		return fmt.Sprintf("%s\t<invalid>\t<invalid>\t<none>\t%v\t<none>", strings.TrimPrefix(s.Name, bootstraptoken.SecretPrefix), err)
	}
	ttl, expires := "<forever>", "<never>"
	if !o.Expires.IsZero() {
		ttl, expires = "<expired>", o.Expires.UTC().Format(time.RFC3339)
		if left := o.Expires.Sub(now); left > 0 {
			ttl = duration.HumanDuration(left)
		}
	}
	or := func(text string) string {
		if text == "" {
			return "<none>"
		}
		return text
	}
	return strings.Join([]string{token.ID, ttl, expires, or(strings.Join(o.Usages, ",")), or(o.Description), or(strings.Join(o.Groups, ","))}, "\t")
}

func tokenDeleteCommand(a *tokenAccess) *cobra.Command {
	return &cobra.Command{
		Use: "delete ID…", Aliases: []string{"rm"}, Short: "Delete tokens, by id or as a whole", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			secrets, _, err := a.connect()
			if err != nil {
				return err
			}
			var errs []error
			for _, arg := range args {
				_, short, found := strings.Cut(arg, "::")
				if !found {
					short = arg
				}
				id, _, _ := strings.Cut(short, ".")
				err := secrets.Delete(cmd.Context(), bootstraptoken.SecretPrefix+id, metav1.DeleteOptions{})
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "token %s deleted\n", id)
			}
			return errors.Join(errs...)
		},
	}
}
