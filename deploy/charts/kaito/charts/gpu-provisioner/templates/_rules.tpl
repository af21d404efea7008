{{/* The entries of permissions.yaml of one scope, as rules of RBAC. Call with (list scope root). */}}
{{- define "gpu-provisioner.rules" -}}
{{- $scope := index . 0 }}
{{- $root := index . 1 }}
{{- range $root.Files.Get "permissions.yaml" | fromYamlArray }}
{{- if eq .scope $scope }}
# {{ .why | trim }}
- apiGroups: {{ toJson .apiGroups }}
  resources: {{ toJson .resources }}
  {{- with .resourceNames }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: {{ toJson .verbs }}
{{- end }}
{{- end }}
{{- end }}
