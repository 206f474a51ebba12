package main

import (
	"fmt"
	"os"

	"github.com/kubeflow/pipelines/backend/src/apiserver/model"
	"github.com/kubeflow/pipelines/backend/src/apiserver/template"
)

// compile does what the API server does for a new run: it parses and validates the template, checks the run's parameters against it, and
// compiles it to an Argo Workflow, which it writes to standard output.
func compile(pipelineFile, parametersFile string) error {
	pipeline, err := os.ReadFile(pipelineFile)
	if err != nil {
		return err
	}
	parameters, err := os.ReadFile(parametersFile)
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
			RuntimeConfig: model.RuntimeConfig{Parameters: model.LargeText(parameters), PipelineRoot: "s3://acceptance/root"},
		},
	}
	workflow, err := spec.RunWorkflow(run, template.RunWorkflowOptions{RunID: "00000000-0000-0000-0000-000000000000", RunAt: 0})
	if err != nil {
		return err
	}
	fmt.Println(workflow.ToStringForStore())
	return nil
}
