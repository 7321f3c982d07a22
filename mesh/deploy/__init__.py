"""What is applied to a cluster: images, custom resources, the control plane's objects, the Helm chart."""
