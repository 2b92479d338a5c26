package stats

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// ContentType is of what Resource and Containers write.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// exposition writes metrics in Prometheus' text format.
type exposition struct{ b strings.Builder }

// head begins a family. A family without values is left out by those who call
// it only with the first value.
func (e *exposition) head(name, kind, help string) {
	fmt.Fprintf(&e.b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (e *exposition) value(name string, v float64, labels ...string) {
	e.valueAt(name, v, time.Time{}, labels...)
}

// labelEscapes are those of the text format, which knows no others.
var labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// valueAt tells of a value with the time that it was read at.
func (e *exposition) valueAt(name string, v float64, at time.Time, labels ...string) {
	e.b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		e.b.WriteByte(sep)
		e.b.WriteString(labels[i])
		e.b.WriteString(`="`)
		e.b.WriteString(labelEscapes.Replace(labels[i+1]))
		e.b.WriteByte('"')
	}
	if len(labels) > 1 {
		e.b.WriteByte('}')
	}
	e.b.WriteByte(' ')
	e.b.WriteString(strconv.FormatFloat(v, 'g', -1, 64))
	if !at.IsZero() {
		e.b.WriteByte(' ')
		e.b.WriteString(strconv.FormatInt(at.UnixMilli(), 10))
	}
	e.b.WriteByte('\n')
}

func (e *exposition) send(w io.Writer) error {
	_, err := io.WriteString(w, e.b.String())
	return err
}

// text is a file without the white space around it; empty if there is none.
func text(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
