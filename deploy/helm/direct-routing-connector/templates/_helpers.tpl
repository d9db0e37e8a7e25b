{{- define "connector.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "connector.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "connector.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "connector.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "connector.selector" -}}
app.kubernetes.io/name: {{ include "connector.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "connector.labels" -}}
{{ include "connector.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Arguments: root, own (annotations of the resource). Renders nothing without annotations. */}}
{{- define "connector.annotations" -}}
{{- with merge (dict) (.own | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "connector.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "connector.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "connector.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Helm holds every number as a float, which TOML writes as 8.0. */}}
{{- define "connector.toml" -}}
{{- regexReplaceAll "(?m)(= -?[0-9]+)\\.0$" (toToml .Values.config) "${1}" -}}
{{- end -}}

{{- define "connector.probe" -}}
httpGet:
  path: {{ .path }}
  port: http
{{- range $name, $value := .settings }}
{{ $name }}: {{ $value }}
{{- end }}
{{- end -}}

{{- define "connector.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- range $name, $value := .Values.podSecurityContext }}
{{- if not (kindIs "invalid" $value) }}
{{ $name }}: {{ if kindIs "float64" $value }}{{ int64 $value }}{{ else }}{{ toJson $value }}{{ end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "connector.env" -}}
{{- $identity := .Values.workloadIdentity -}}
- name: CONNECTOR_CONFIG
  value: /etc/connector/config/connector.toml
- name: CONNECTOR_HTTP__LISTEN
  value: {{ printf "0.0.0.0:%d" (int .Values.port) | quote }}
{{- if and $identity.enabled $identity.withoutWebhook }}
- name: AZURE_CLIENT_ID
  value: {{ required "workloadIdentity.clientId is needed without the webhook" $identity.clientId | quote }}
- name: AZURE_TENANT_ID
  value: {{ required "workloadIdentity.tenantId is needed without the webhook" $identity.tenantId | quote }}
- name: AZURE_FEDERATED_TOKEN_FILE
  value: /var/run/secrets/azure/tokens/azure-identity-token
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Container that has the image, the configuration and the secrets; the caller adds name, args and ports. */}}
{{- define "connector.container" -}}
image: {{ include "connector.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  {{- include "connector.env" . | nindent 2 }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: config
    mountPath: /etc/connector/config
    readOnly: true
  {{- range .Values.secrets }}
  - name: secret-{{ .name }}
    mountPath: /etc/connector/secrets/{{ .name }}
    readOnly: true
  {{- end }}
  {{- if and .Values.workloadIdentity.enabled .Values.workloadIdentity.withoutWebhook }}
  - name: azure-identity-token
    mountPath: /var/run/secrets/azure/tokens
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Members of a pod that workers and the test have in common. */}}
{{- define "connector.pod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
serviceAccountName: {{ include "connector.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  {{- include "connector.podSecurityContext" . | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: config
    {{- if .Values.existingConfigSecret }}
    secret:
      secretName: {{ .Values.existingConfigSecret }}
      defaultMode: 0440
    {{- else }}
    configMap:
      name: {{ include "connector.fullname" . }}
    {{- end }}
  {{- range .Values.secrets }}
  - name: secret-{{ .name }}
    secret:
      secretName: {{ .secretName }}
      defaultMode: 0440
  {{- end }}
  {{- if and .Values.workloadIdentity.enabled .Values.workloadIdentity.withoutWebhook }}
  - name: azure-identity-token
    projected:
      defaultMode: 0440
      sources:
        - serviceAccountToken:
            path: azure-identity-token
            audience: api://AzureADTokenExchange
            expirationSeconds: 3600
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
