// Command acceptance validates and runs a compiled pipeline with Kubeflow Pipelines' own code, without a cluster.
//
//	acceptance compile PIPELINE.yaml RUNTIME.json > workflow.json
//	acceptance run PIPELINE.yaml RUNTIME.json RUN_ID METADATA_PORT CACHE.json > steps.json
//
// RUNTIME.json is the runtime_config of the request for a run, with its parameters and its pipeline_root.
//
// If the backend refuses the pipeline, the command prints the backend's message and exits with 1.
package main

import (
	"fmt"
	"os"

	"github.com/kubeflow/pipelines/backend/src/apiserver/config/proxy"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func command(arguments []string) error {
	proxy.InitializeConfig("", "", "")
	switch {
	case len(arguments) == 3 && arguments[0] == "compile":
		return compile(arguments[1], arguments[2])
	case len(arguments) == 6 && arguments[0] == "run":
		return run(arguments[1], arguments[2], arguments[3], arguments[4], arguments[5])
	}
	return fmt.Errorf("usage: acceptance compile|run PIPELINE.yaml RUNTIME.json …")
}
