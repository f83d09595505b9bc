{{- define "mainstem.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "mainstem.labels" -}}
app.kubernetes.io/name: mainstem
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* Labels that select the pods of a component: (dict "root" $ "component" "gateway") */ -}}
{{- define "mainstem.selector" -}}
app.kubernetes.io/name: mainstem
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "mainstem.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "mainstem.account" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "mainstem.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- /* Settings as environment variables; a process's own ones win: (dict "root" $ "own" dict) */ -}}
{{- define "mainstem.environment" -}}
envFrom:
  - secretRef: { name: {{ .root.Values.existingSecret | quote }} }
env:
  - { name: MAINSTEM_QUEUE, value: {{ .root.Values.queue | quote }} }
{{- range $name, $value := merge (deepCopy .own) .root.Values.settings }}
  - { name: MAINSTEM_{{ $name }}, value: {{ $value | toString | quote }} }
{{- end }}
{{- end -}}

{{- define "mainstem.pod" -}}
serviceAccountName: {{ include "mainstem.account" . }}
automountServiceAccountToken: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  seccompProfile: { type: RuntimeDefault }
volumes:
  - { name: tmp, emptyDir: {} }
{{- end -}}

{{- define "mainstem.container" -}}
image: {{ include "mainstem.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
volumeMounts:
  - { name: tmp, mountPath: /tmp }
{{- end -}}
