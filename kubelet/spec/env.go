package spec

import (
	"errors"
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Sources is where environment variables take their values from.
type Sources interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, error)
	Secret(namespace, name string) (*corev1.Secret, error)
	// File reads a file of one of the pod's volumes.
	File(volume, path string) ([]byte, error)
	// Services lists the Services of a namespace.
	Services(namespace string) ([]corev1.Service, error)
}

// Env is a container's environment in order, later duplicates removed.
type Env struct {
	names  []string
	values map[string]string
}

func (e *Env) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

// Get returns the value of a variable.
func (e *Env) Get(name string) (string, bool) {
	v, ok := e.values[name]
	return v, ok
}

// KeyValues is the environment as the runtime wants it.
func (e *Env) KeyValues() []*runtimeapi.KeyValue {
	out := make([]*runtimeapi.KeyValue, 0, len(e.names))
	for _, n := range e.names {
		out = append(out, &runtimeapi.KeyValue{Key: n, Value: []byte(e.values[n])})
	}
	return out
}

// MakeEnv resolves a container's environment: Services first, then envFrom,
// then env, each overriding what came before.
func MakeEnv(fields Fields, c *corev1.Container, src Sources) (*Env, error) {
	pod := fields.Pod
	services, err := serviceEnv(pod, src)
	if err != nil {
		return nil, err
	}
	env := &Env{values: map[string]string{}}
	for _, from := range c.EnvFrom {
		if err := addFrom(env, pod.Namespace, from, src); err != nil {
			return nil, err
		}
	}
	lookup := func(name string) (string, bool) {
		if v, ok := env.values[name]; ok {
			return v, true
		}
		v, ok := services[name]
		return v, ok
	}
	for i := range c.Env {
		v := &c.Env[i]
		value := Expand(v.Value, lookup)
		if v.ValueFrom != nil {
			var present bool
			if value, present, err = valueFrom(fields, c, v.ValueFrom, src); err != nil {
				return nil, err
			}
			if !present {
				continue
			}
		}
		env.set(v.Name, value)
	}
	names := make([]string, 0, len(services))
	for name := range services {
		if _, ok := env.values[name]; !ok {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		env.set(name, services[name])
	}
	return env, nil
}

func addFrom(env *Env, namespace string, from corev1.EnvFromSource, src Sources) error {
	data := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		cm, err := src.ConfigMap(namespace, from.ConfigMapRef.Name)
		if err != nil {
			return unlessOptional(err, from.ConfigMapRef.Optional)
		}
		data = cm.Data
	case from.SecretRef != nil:
		secret, err := src.Secret(namespace, from.SecretRef.Name)
		if err != nil {
			return unlessOptional(err, from.SecretRef.Optional)
		}
		for k, v := range secret.Data {
			data[k] = string(v)
		}
	}
	keys := make([]string, 0, len(data))
	for k := range data {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		name := from.Prefix + k
		if name == "" || strings.ContainsAny(name, "=\x00") {
			continue // no environment can hold such a name
		}
		env.set(name, data[k])
	}
	return nil
}

func unlessOptional(err error, optional *bool) error {
	if optional != nil && *optional && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func valueFrom(fields Fields, c *corev1.Container, from *corev1.EnvVarSource, src Sources) (value string, present bool, err error) {
	ns := fields.Pod.Namespace
	switch {
	case from.FieldRef != nil:
		value, err = fields.Value(from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err = fields.Resource(from.ResourceFieldRef, c)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := src.ConfigMap(ns, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		v, ok := cm.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, ns, ref.Name)
		}
		return v, ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret, err := src.Secret(ns, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		v, ok := secret.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, ns, ref.Name)
		}
		return string(v), ok, nil
	case from.FileKeyRef != nil:
		return fileValue(from.FileKeyRef, src)
	}
	return "", false, errors.New("environment variable names no source that this node knows")
}

// serviceEnv makes the variables that tell a container of the Services in its
// namespace, and always of the API server.
func serviceEnv(pod *corev1.Pod, src Sources) (map[string]string, error) {
	chosen := map[string]*corev1.Service{}
	add := func(namespace string, wanted func(name string) bool) error {
		list, err := src.Services(namespace)
		if err != nil {
			return fmt.Errorf("services of namespace %s: %w", namespace, err)
		}
		for i := range list {
			s := &list[i]
			if s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone && wanted(s.Name) {
				chosen[s.Name] = s
			}
		}
		return nil
	}
	if err := add(metav1Default, func(name string) bool { return name == "kubernetes" }); err != nil {
		return nil, err
	}
	if links := pod.Spec.EnableServiceLinks; links == nil || *links {
		if err := add(pod.Namespace, func(string) bool { return true }); err != nil {
			return nil, err
		}
	}
	env := map[string]string{}
	for _, s := range chosen {
		addService(env, s)
	}
	return env, nil
}

const metav1Default = "default"

func addService(env map[string]string, s *corev1.Service) {
	upper := func(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
	name, ip := upper(s.Name), s.Spec.ClusterIP
	if len(s.Spec.Ports) == 0 {
		return
	}
	env[name+"_SERVICE_HOST"] = ip
	env[name+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			env[name+"_SERVICE_PORT_"+upper(p.Name)] = port
		}
		protocol := string(p.Protocol)
		if protocol == "" {
			protocol = "TCP"
		}
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, port)
		prefix := name + "_PORT_" + port + "_" + strings.ToUpper(protocol)
		if i == 0 {
			env[name+"_PORT"] = url
		}
		env[prefix] = url
		env[prefix+"_PROTO"] = strings.ToLower(protocol)
		env[prefix+"_PORT"] = port
		env[prefix+"_ADDR"] = ip
	}
}

// Expand replaces $(NAME) by what lookup knows; unknown references stay as
// they are and $$ is an escaped $.
func Expand(s string, lookup func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+2+end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			b.WriteByte('$')
			b.WriteByte(s[i+1])
			i++
		}
	}
	return b.String()
}
