{{/* What whoever opens keys sees of the custodian. */}}
{{- define "bulle.custodianMounts" -}}
{{- if eq .Values.custodian.kind "file" -}}
- {name: custodian, mountPath: {{ .Values.state }}/custodian, readOnly: true}
{{- else -}}
- {name: custodian, mountPath: /etc/bulle/custodian, readOnly: true}
{{- with .Values.custodian.pkcs11.folder }}
- {name: pkcs11, mountPath: {{ . }}, readOnly: true}
{{- end }}
{{- end -}}
{{- end }}

{{- define "bulle.custodianVolumes" -}}
{{- if eq .Values.custodian.kind "file" -}}
- name: custodian
  secret:
    secretName: {{ default (printf "%s-custodian" (include "bulle.fullname" .)) .Values.custodian.existingSecret }}
    defaultMode: 0440
    items: [{key: key-encryption-key, path: key-encryption-key}]
{{- else -}}
- name: custodian
  secret:
    secretName: {{ required "custodian.pkcs11.pinSecret: a Secret with the key pin" .Values.custodian.pkcs11.pinSecret }}
    defaultMode: 0440
    items: [{key: pin, path: pin}]
{{- with .Values.custodian.pkcs11.folder }}
- name: pkcs11
  hostPath: {path: {{ . }}, type: Directory}
{{- end }}
{{- end -}}
{{- end }}
