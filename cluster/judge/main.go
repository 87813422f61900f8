// judge says what GitOps tools make of objects, with the tools' own engines: kstatus, the CEL of
// Flux, the Lua of Argo CD and its comparison of what is in git with what is live.
//
// It reads {"objects": [{"live": {…}, "git": {…}, "lua": "…", "cel": {"current": "…"}}]} from stdin
// and writes [{"kstatus": …, "flux": …, "argo": …, "message": …, "drift": …}] to stdout.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type object = map[string]any

type question struct {
	Live json.RawMessage   `json:"live"`
	Git  object            `json:"git"`
	Lua  string            `json:"lua"`
	Cel  map[string]string `json:"cel"`
}

type answer struct {
	Kstatus string `json:"kstatus"`
	Flux    string `json:"flux,omitempty"`
	Argo    string `json:"argo,omitempty"`
	Message string `json:"message,omitempty"`
	Drift   string `json:"drift,omitempty"`
}

func main() {
	var input struct{ Objects []question }
	must(json.NewDecoder(os.Stdin).Decode(&input))
	answers := []answer{}
	for _, q := range input.Objects {
		answers = append(answers, judge(q))
	}
	must(json.NewEncoder(os.Stdout).Encode(answers))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func judge(q question) answer {
	live := &unstructured.Unstructured{}
	must(live.UnmarshalJSON(q.Live))
	computed, err := status.Compute(live)
	must(err)
	given := answer{Kstatus: computed.Status.String()}
	if q.Cel != nil {
		given.Flux = flux(live.Object, q.Cel)
	}
	if q.Lua != "" {
		given.Argo, given.Message = argo(live, q.Lua)
	}
	if q.Git != nil {
		given.Drift = drift(q.Git, live.Object)
	}
	return given
}

// flux is StatusEvaluator.Evaluate of github.com/fluxcd/pkg/runtime/cel: the generation, then the
// expressions in the order of RFC 0009, in the environment that Flux gives them. An error is an
// unknown status, on which Flux waits.
func flux(live object, expressions map[string]string) string {
	observed, found, _ := unstructured.NestedInt64(live, "status", "observedGeneration")
	generation, known, _ := unstructured.NestedInt64(live, "metadata", "generation")
	if found && known && observed != generation {
		return "InProgress"
	}
	env, err := cel.NewEnv(
		cel.HomogeneousAggregateLiterals(),
		cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.OptionalTypes(),
		ext.Strings(),
		ext.Sets(),
		ext.Encoders(),
	)
	must(err)
	for _, one := range []struct{ field, answer string }{
		{"inProgress", "InProgress"}, {"failed", "Failed"}, {"current", "Current"},
	} {
		source, there := expressions[one.field]
		if !there {
			continue
		}
		parsed, issues := env.Parse(source)
		must(issues.Err())
		program, err := env.Program(parsed, cel.EvalOptions(cel.OptOptimize))
		must(err)
		result, _, err := program.Eval(live)
		if err != nil {
			return "Unknown"
		}
		if result == types.True {
			return one.answer
		}
	}
	return "InProgress"
}

// argo is VM.ExecuteHealthLua of github.com/argoproj/argo-cd/v3/util/lua, with the libraries that it
// opens for scripts of argocd-cm; before that GetResourceHealth looks for a deletion.
func argo(live *unstructured.Unstructured, script string) (string, string) {
	if live.GetDeletionTimestamp() != nil {
		return "Progressing", "Pending deletion"
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		must(state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)))
	}
	state.SetGlobal("obj", decode(state, live.Object))
	if err := state.DoString(script); err != nil {
		return "Unknown", err.Error()
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "Unknown", "returns no table"
	}
	message := ""
	if text, ok := table.RawGetString("message").(lua.LString); ok {
		message = string(text)
	}
	return table.RawGetString("status").String(), message
}

func decode(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case []any:
		table := state.CreateTable(len(value), 0)
		for _, item := range value {
			table.Append(decode(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(value))
		for key, item := range value {
			table.RawSetString(key, decode(state, item))
		}
		return table
	}
	return lua.LNil
}

// drift is threeWayMergePatch of github.com/argoproj/argo-cd/gitops-engine/pkg/diff for resources
// without a Go type: what applying the object of git again would change. Argo CD leaves out of the
// comparison what the last applied object did not say.
func drift(git, live object) string {
	applied := git
	annotations, _, _ := unstructured.NestedStringMap(live, "metadata", "annotations")
	if text, there := annotations["kubectl.kubernetes.io/last-applied-configuration"]; there {
		applied = object{}
		must(json.Unmarshal([]byte(text), &applied))
	}
	encode := func(value any) []byte {
		text, err := json.Marshal(value)
		must(err)
		return text
	}
	shown := common(applied, live)
	patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(encode(applied), encode(git), encode(shown))
	must(err)
	if strings.TrimSpace(string(patch)) == "{}" {
		return ""
	}
	return string(patch)
}

// common is RemoveMapFields and RemoveListFields of gitops-engine/pkg/utils/json.
func common(said, live any) any {
	switch said := said.(type) {
	case map[string]any:
		there, ok := live.(map[string]any)
		if !ok {
			return live
		}
		kept := object{}
		for key, value := range said {
			if found, ok := there[key]; ok {
				kept[key] = common(value, found)
			}
		}
		return kept
	case []any:
		there, ok := live.([]any)
		if !ok || reflect.DeepEqual(said, live) {
			return live
		}
		kept := []any{}
		for i, value := range there {
			if i < len(said) {
				value = common(said[i], value)
			}
			kept = append(kept, value)
		}
		return kept
	}
	return live
}
