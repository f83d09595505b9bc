from django.urls import path

from chat import views

urlpatterns = [
    path("chats/<thread_id>", views.start),
    path("runs/<run_id>/events", views.follow),
]
