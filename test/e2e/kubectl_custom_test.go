package e2e

import (
	"regexp"
	"strings"
	"testing"
)

// boats is a definition with all that a definition may have.
const boats = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.sea.example.com}
spec:
  group: sea.example.com
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat, listKind: Fleet, shortNames: [bt], categories: [vessels]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.crew, statusReplicasPath: .status.aboard, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.color}, {jsonPath: .spec.crew}]
    additionalPrinterColumns:
    - {name: Color, type: string, jsonPath: .spec.color}
    - {name: Crew, type: integer, jsonPath: .spec.crew}
    - {name: Afloat, type: boolean, jsonPath: .status.afloat, priority: 1}
    - {name: Launched, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        description: A Boat carries a crew.
        type: object
        properties:
          spec:
            description: What the boat shall be.
            type: object
            required: [color]
            x-kubernetes-validations: [{rule: "self.crew <= 40", message: "too heavy"}]
            properties:
              color: {type: string, maxLength: MAX}
              crew: {type: integer, default: 1}
              masts:
                description: From bow to stern.
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, sails: {type: integer, description: How many.}}}
          status:
            type: object
            properties: {afloat: {type: boolean}, aboard: {type: integer}, selector: {type: string}}
`

const boat = `
apiVersion: sea.example.com/v1
kind: Boat
metadata: {name: NAME}
spec: {color: COLOR, crew: CREW, masts: [{name: main, sails: 2}]}
`

func newBoat(name, color, crew string) string {
	return strings.NewReplacer("NAME", name, "COLOR", color, "CREW", crew).Replace(boat)
}

func TestKubectlCustomResources(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	check := func(want string, args ...string) {
		t.Helper()
		if got := e.kubectl(args...); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("kubectl %v: does not match %q:\n%s", args, want, got)
		}
	}
	e.apply(strings.Replace(boats, "MAX", "20", 1))
	gone := false
	t.Cleanup(func() {
		if !gone {
			_, _ = e.try("delete", "crd", "boats.sea.example.com")
		}
	})
	check(`condition met`, "wait", "--for=condition=Established", "crd/boats.sea.example.com", "--timeout=30s")
	check(`(?m)^boats +bt +sea.example.com/v1 +true +Boat +\S+ +vessels$`, "api-resources", "--api-group=sea.example.com", "-o", "wide")
	e.apply(newBoat("b", "blue", "3"))
	e.apply(newBoat("a", "red", "30"))

	// get
	for _, c := range []struct{ args, want string }{
		{"get boats", `^NAME +COLOR +CREW +LAUNCHED\na +red +30 +\d+s\nb +blue +3 +\d+s$`},
		{"get bt -o wide --sort-by=.spec.crew", `^NAME +COLOR +CREW +AFLOAT +LAUNCHED\nb +blue +3 +\S+\na +red +30 +\S+$`},
		{"get boat --field-selector=spec.color=blue -o name", `^boat.sea.example.com/b$`},
		{"get boat --field-selector=spec.color!=blue,spec.crew=30 -o name", `^boat.sea.example.com/a$`},
		{"get vessels", `(?s)^NAME +COLOR.*\na +red`},
		{"get vessels -o name", `^boat.sea.example.com/a\nboat.sea.example.com/b$`},
		{"get --raw /apis/sea.example.com/v1/boats", `^\{"kind":"Fleet","apiVersion":"sea.example.com/v1",`},
		{"describe boat a", `(?s)Kind: +Boat.*Masts:\n +Name: +main`},
		{"explain boats", `(?s)GROUP: +sea.example.com\nKIND: +Boat\nVERSION: +v1.*A Boat carries a crew.*spec\t<Object>\n +What the boat shall be`},
		{"explain boats.metadata", `(?s)Standard object's metadata.*creationTimestamp\t<string>`},
		{"explain boats.spec.masts.sails", `(?s)FIELD: sails <integer>.*How many`},
		{"explain boats --recursive", `(?s)masts\t<\[\]Object>\n +name\t<string> -required-\n +sails\t<integer>`},
	} {
		check(c.want, strings.Split(c.args, " ")...)
	}
	e.fails("field label not supported: spec.masts", "get", "boats", "--field-selector=spec.masts=x")

	// change
	check(`^boat.sea.example.com/b configured$`, "apply", "-f", file(t, newBoat("b", "blue", "5")))
	check(`patched`, "patch", "boat", "b", "--type=merge", "-p", `{"spec":{"crew":4}}`)
	e.fails("spec: Invalid value: too heavy", "patch", "boat", "b", "--type=merge", "-p", `{"spec":{"crew":41}}`)
	e.fails(`unknown field "spec.wings"`, "create", "-f", file(t, strings.Replace(newBoat("c", "red", "1"), "crew:", "wings: 2, crew:", 1)))
	e.fails(`spec.color: Required value`, "create", "--validate=false", "-f", file(t, strings.Replace(newBoat("c", "red", "1"), "color: red, ", "", 1)))
	more := file(t, strings.Replace(newBoat("b", "blue", "4"), "main, sails: 2", "mizzen, sails: 1", 1))
	e.fails("conflict with", "apply", "--server-side", "--field-manager=other", "-f", file(t, newBoat("b", "green", "4")))
	check(`serverside-applied`, "apply", "--server-side", "--field-manager=other", "-f", more)
	// kubectl hands what it applied by itself over to the new manager.
	check(`^mizzen$`, "get", "boat", "b", "-o", "jsonpath={.spec.masts[*].name}")
	check(`edited`, "label", "--overwrite", "boat", "b", "state=edited", "-o", "jsonpath={.metadata.labels.state}")
	check(`^5$`, "get", "boat", "b", "-o", "jsonpath={.metadata.generation}")

	// subresources
	check(`scaled`, "scale", "boat", "b", "--replicas=7", "--current-replicas=4")
	check(`patched`, "patch", "boat", "b", "--subresource=status", "--type=merge", "-p", `{"status":{"aboard":6,"afloat":true,"selector":"a=b"},"spec":{"crew":1}}`)
	check(`^7 6 a=b$`, "get", "boat", "b", "--subresource=scale", "-o", "jsonpath={.spec.replicas} {.status.replicas} {.status.selector}")
	check(`(?m)^b +blue +7 +true`, "get", "boat", "-o", "wide")
	check(`^true$`, "patch", "boat", "b", "--type=merge", "-p", `{"status":{"afloat":false}}`, "-o", "jsonpath={.status.afloat}")

	// what was right stays
	e.apply(strings.Replace(boats, "MAX", "3", 1))
	e.until("the new schema is in force", func() bool {
		_, err := e.try("create", "--dry-run=server", "-f", file(t, newBoat("d", "violet", "1")))
		return err != nil && strings.Contains(err.Error(), "Too long: may not be more than 3 bytes")
	})
	check(`^b +blue`, "get", "boat", "b", "--no-headers")
	check(`patched`, "patch", "boat", "b", "--type=merge", "-p", `{"spec":{"crew":9}}`)
	e.fails("Too long", "patch", "boat", "b", "--type=merge", "-p", `{"spec":{"color":"indigo"}}`)

	// delete
	watched := e.follow(nil, "get", "boats", "-w", "--output-watch-events")
	e.prints(watched, "ADDED      b")
	check(`deleted`, "delete", "crd", "boats.sea.example.com", "--timeout=60s")
	gone = true
	e.prints(watched, "DELETED    b")
	e.until("nothing is served", func() bool {
		_, err := e.try("get", "--raw", "/apis/sea.example.com/v1/boats")
		return err != nil
	})
}
