package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
)

// What may stand behind the = of a parameter instead of its value. Two @ mean one that is meant.
const (
	fromSecret = "@secret:"
	fromFile   = "@file:"
)

// given are the parameters of a command line.
type given struct {
	values  map[string]any
	secrets map[string]string // JSON pointer to the name of the secret that belongs there
}

// parameters reads NAME=VALUE words by the schema of a thing ("action core.echo"), and whole objects
// from @FILE and -. Later words win. What does not fit is told for all of them at once.
func (c *command) parameters(words []string, schema *manifest.Schema, thing string) (*given, error) {
	g := &given{values: map[string]any{}, secrets: map[string]string{}}
	var misfits []api.ErrorDetail
	for _, word := range words {
		name, text, isPair := strings.Cut(word, "=")
		switch {
		case word == "-", strings.HasPrefix(word, "@"):
			object, err := c.object(word)
			if err != nil {
				return nil, err
			}
			for name := range object {
				delete(g.secrets, pointerTo(name))
			}
			maps.Copy(g.values, object)
			continue
		case !isPair || name == "":
			return nil, &usageError{
				text: fmt.Sprintf("cannot read %q: expected name=value, @file or -", word),
				hint: "A parameter is given as name=value, all of them at once as one JSON object by @file or -.",
			}
		}
		delete(g.values, name)
		delete(g.secrets, pointerTo(name))
		if secret, ok := strings.CutPrefix(text, fromSecret); ok {
			g.secrets[pointerTo(name)] = secret
			continue
		}
		value, misfit, err := coerce(schema, name, text)
		if err != nil {
			return nil, err
		}
		if misfit != nil {
			misfits = append(misfits, api.ErrorDetail{Pointer: misfit.Pointer, Message: misfit.Message})
			continue
		}
		g.values[name] = value
	}
	if len(misfits) > 0 {
		return nil, &api.Error{Code: api.CodeInvalidParameters, Detail: "the parameters do not fit " + thing, Errors: misfits}
	}
	return g, nil
}

// coerce reads the value of one parameter by the schema. Without one the daemon says what is wrong.
func coerce(schema *manifest.Schema, name, text string) (any, *manifest.SchemaError, error) {
	if file, ok := strings.CutPrefix(text, fromFile); ok {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, nil, usagef("cannot read parameter %s: %v", name, err)
		}
		text = string(content)
	} else if strings.HasPrefix(text, "@"+fromFile) || strings.HasPrefix(text, "@"+fromSecret) {
		text = text[1:]
	}
	if schema == nil {
		return text, nil, nil
	}
	value, misfit := schema.Coerce(name, text)
	return value, misfit, nil
}

// object reads a word that stands for a whole object.
func (c *command) object(word string) (map[string]any, error) {
	in, name := c.sys.Stdin, "stdin"
	if word != "-" {
		file, err := os.Open(word[1:])
		if err != nil {
			return nil, usagef("cannot read parameters: %v", err)
		}
		defer file.Close()
		in, name = file, word[1:]
	}
	var object map[string]any
	decoder := json.NewDecoder(in)
	decoder.UseNumber()
	switch err := decoder.Decode(&object); {
	case errors.Is(err, io.EOF):
		return nil, usagef("cannot read parameters from %s: expected one JSON object, found nothing", name)
	case err != nil:
		return nil, usagef("cannot read parameters from %s: expected one JSON object: %v", name, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, usagef("cannot read parameters from %s: expected one JSON object, found more behind it", name)
	}
	return object, nil
}

// pointerTo is the JSON pointer to a parameter.
func pointerTo(name string) string {
	return "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}
