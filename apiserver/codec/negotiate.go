package codec

import (
	"strings"
)

// Media types.
const (
	MediaJSON     = "application/json"
	MediaYAML     = "application/yaml"
	MediaProtobuf = "application/vnd.kubernetes.protobuf"
)

// Format is a way to write objects.
type Format int

// The formats.
const (
	JSON Format = iota
	YAML
	Protobuf
)

// MediaType is the Content-Type of the format.
func (f Format) MediaType() string {
	switch f {
	case YAML:
		return MediaYAML
	case Protobuf:
		return MediaProtobuf
	}
	return MediaJSON
}

// Accepted is what a client wants to get.
type Accepted struct {
	Format Format
	// As names a transformation ("Table", "PartialObjectMetadata",
	// "PartialObjectMetadataList", "APIGroupDiscoveryList"), with its group
	// and version; empty means the object itself.
	As, Group, Version string
	// Profile is a variant of a transformation ("nopeer").
	Profile string
}

// Negotiate picks the first clause of an Accept header that is known and that
// the endpoint has.
func Negotiate(header string, has func(a Accepted) bool) (Accepted, bool) {
	var usual Accepted
	switch header { // what most clients send
	case MediaProtobuf, "application/vnd.kubernetes.protobuf, */*", "application/vnd.kubernetes.protobuf,application/json":
		usual.Format = Protobuf
		fallthrough
	case "", "*/*", MediaJSON, "application/json, */*":
		if has(usual) {
			return usual, true
		}
	}
	for _, clause := range byQuality(header) {
		if a, ok := clause.accepted(); ok && has(a) {
			return a, true
		}
	}
	return Accepted{}, false
}

type clause struct {
	media  string
	params map[string]string
	q      float64
}

// maxClauses is how many clauses of a header are looked at: strangers send it.
const maxClauses = 64

// byQuality splits a header into clauses, the most wanted first.
func byQuality(header string) []clause {
	var out []clause
	for part := range strings.SplitSeq(header, ",") {
		if len(out) == maxClauses {
			break
		}
		media, rest, _ := strings.Cut(part, ";")
		c := clause{media: strings.ToLower(strings.TrimSpace(media)), q: 1}
		for p := range strings.SplitSeq(rest, ";") {
			key, value, ok := strings.Cut(p, "=")
			if !ok {
				continue
			}
			key, value = strings.TrimSpace(key), strings.Trim(strings.TrimSpace(value), `"`)
			if key == "q" {
				c.q = parseQuality(value)
				continue
			}
			if c.params == nil {
				c.params = map[string]string{}
			}
			c.params[key] = value
		}
		if c.media == "" || c.q == 0 {
			continue
		}
		at := len(out)
		for at > 0 && out[at-1].q < c.q {
			at--
		}
		out = append(out[:at], append([]clause{c}, out[at:]...)...)
	}
	return out
}

func parseQuality(s string) float64 {
	q, scale := 0.0, 1.0
	whole, fraction, _ := strings.Cut(s, ".")
	if whole == "1" {
		return 1
	}
	for _, r := range fraction {
		if r < '0' || r > '9' {
			return 0
		}
		scale /= 10
		q += float64(r-'0') * scale
	}
	return q
}

func (c clause) accepted() (Accepted, bool) {
	a := Accepted{As: c.params["as"], Group: c.params["g"], Version: c.params["v"], Profile: c.params["profile"]}
	switch c.media {
	case MediaJSON, "*/*", "application/*":
	case MediaYAML, "text/yaml", "application/x-yaml":
		a.Format = YAML
	case MediaProtobuf:
		a.Format = Protobuf
	default:
		return a, false
	}
	if stream := c.params["stream"]; stream != "" && (stream != "watch" || a.Format == YAML) {
		return a, false
	}
	return a, true
}

// IsKnown says whether a asks for an object itself or for one of the meta.k8s.io
// transformations that every resource has.
func IsKnown(a Accepted) bool {
	if a.As == "" {
		return true
	}
	if a.Group != "meta.k8s.io" || a.Version != "v1" && a.Version != "v1beta1" {
		return false
	}
	switch a.As {
	case "Table":
		return a.Format != Protobuf
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		return true
	}
	return false
}
