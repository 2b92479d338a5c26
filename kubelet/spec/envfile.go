package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// fileValue reads a variable from a file that another container of the pod has
// written to a volume. An empty value counts as none.
func fileValue(ref *corev1.FileKeySelector, src Sources) (value string, present bool, err error) {
	optional := ref.Optional != nil && *ref.Optional
	data, err := src.File(ref.VolumeName, ref.Path)
	if errors.Is(err, fs.ErrNotExist) && optional {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("couldn't read env file %q of volume %q: %w", ref.Path, ref.VolumeName, err)
	}
	if value, err = envFileValue(string(data), ref.Key); err != nil {
		return "", false, fmt.Errorf("couldn't parse env file %q of volume %q: %w", ref.Path, ref.VolumeName, err)
	}
	if value == "" && !optional {
		return "", false, fmt.Errorf("environment variable key %q not found in file %q of volume %q", ref.Key, ref.Path, ref.VolumeName)
	}
	return value, value != "", nil
}

// envFileValue finds a variable in what a shell could read too: lines of
//
//	NAME='any text, of several lines as well'  # comment
//
// No quote can be in the text. The errors name lines and show nothing of them.
func envFileValue(text, key string) (string, error) {
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimLeft(strings.TrimSuffix(lines[i], "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		number := i + 1
		wrong := func(what string) error { return fmt.Errorf("line %d: %s", number, what) }
		name, rest, ok := strings.Cut(line, "=")
		switch {
		case !ok:
			return "", wrong("missing '='")
		case name == "":
			return "", wrong("empty variable name")
		case strings.TrimRight(name, " \t") != name:
			return "", wrong("whitespace before '=' is not allowed")
		case strings.TrimLeft(rest, " \t") != rest: // to a shell, the value is empty and what follows a command
			if name == key {
				return "", nil
			}
			continue
		case !strings.HasPrefix(rest, "'"):
			return "", wrong("value must be enclosed in single quotes")
		}
		value, after, closed := strings.Cut(rest[1:], "'")
		for !closed {
			if i++; i == len(lines) {
				return "", wrong("unclosed single quote")
			}
			var more string
			more, after, closed = strings.Cut(strings.TrimSuffix(lines[i], "\r"), "'")
			value += "\n" + more
		}
		if after = strings.TrimLeft(after, " \t"); after != "" && after[0] != '#' {
			return "", wrong("unexpected content after closing quote")
		}
		if name == key {
			return value, nil
		}
	}
	return "", nil
}
