package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/kubeflow/pipelines/backend/src/apiserver/model"
	"github.com/kubeflow/pipelines/backend/src/apiserver/template"
)

// runtimeRequest is the part of a request for a run that the driver gets.
type runtimeRequest struct {
	Parameters   map[string]any `json:"parameters"`
	PipelineRoot string         `json:"pipeline_root"`
}

// runtimeConfig reads a runtime_config.
func runtimeConfig(file string) (*runtimeRequest, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	request := &runtimeRequest{Parameters: map[string]any{}}
	return request, json.Unmarshal(text, request)
}

// compile does what the API server does for a new run: it parses and validates the template, checks the run's parameters against it, and
// compiles it to an Argo Workflow, which it writes to standard output. The runtime file is the runtime_config of a request for a run.
func compile(pipelineFile, runtimeFile string) error {
	pipeline, err := os.ReadFile(pipelineFile)
	if err != nil {
		return err
	}
	runtime, err := runtimeConfig(runtimeFile)
	if err != nil {
		return err
	}
	parameters, err := json.Marshal(runtime.Parameters)
	if err != nil {
		return err
	}
	spec, err := template.New(pipeline, template.TemplateOptions{})
	if err != nil {
		return err
	}
	run := &model.Run{
		DisplayName: "acceptance",
		Namespace:   "kubeflow",
		PipelineSpec: model.PipelineSpec{
			RuntimeConfig: model.RuntimeConfig{Parameters: model.LargeText(parameters), PipelineRoot: model.LargeText(runtime.PipelineRoot)},
		},
	}
	workflow, err := spec.RunWorkflow(run, template.RunWorkflowOptions{RunID: "00000000-0000-0000-0000-000000000000", RunAt: 0})
	if err != nil {
		return err
	}
	fmt.Println(workflow.ToStringForStore())
	return nil
}
