// Command acceptance has Kubeflow Pipelines' own API server code judge a compiled pipeline, without a cluster.
//
//	go run . pipeline.yaml [parameters.json] > workflow.json
//
// It does what the API server does when it is asked for a run: it parses and validates the template, checks the run's parameters
// against it, and compiles it to an Argo Workflow, which is written to standard output. What the backend refuses ends with its own
// message and exit code 1.
package main

import (
	"fmt"
	"os"

	"github.com/kubeflow/pipelines/backend/src/apiserver/config/proxy"
	"github.com/kubeflow/pipelines/backend/src/apiserver/model"
	"github.com/kubeflow/pipelines/backend/src/apiserver/template"
)

func main() {
	workflow, err := accept(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(workflow)
}

// accept returns the Argo Workflow, as JSON, of a run of the pipeline in the first file with the parameters in the second.
func accept(files []string) (string, error) {
	if len(files) < 1 || len(files) > 2 {
		return "", fmt.Errorf("usage: acceptance PIPELINE.yaml [PARAMETERS.json]")
	}
	pipeline, err := os.ReadFile(files[0])
	if err != nil {
		return "", err
	}
	parameters := []byte("{}")
	if len(files) == 2 {
		if parameters, err = os.ReadFile(files[1]); err != nil {
			return "", err
		}
	}
	proxy.InitializeConfig("", "", "")
	spec, err := template.New(pipeline, template.TemplateOptions{})
	if err != nil {
		return "", err
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
		return "", err
	}
	return workflow.ToStringForStore(), nil
}
